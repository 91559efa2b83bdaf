"""Measurements against the peers, side by side: `make bench`."""
