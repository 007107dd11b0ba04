"""Core-Set active learning beside Label Studio (Sener & Savarese, ICLR 2018)."""

__version__ = "0.1.0"
