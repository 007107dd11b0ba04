"""Rounds replayed on labelled images: the accuracy that each strategy reaches."""
