"""Rounds on disk, each complete or absent; they must never be lost. Imports neither the network nor torch."""
