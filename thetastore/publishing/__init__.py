"""Weights that are published while they change, and followed by others: `docs/weight-sync.md`."""
