"""Rounds replayed on labelled images: what a strategy would have bought."""
