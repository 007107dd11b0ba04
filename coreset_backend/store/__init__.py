"""What must never be lost: rounds on disk, each whole or not there at all. Knows no network and no torch."""
