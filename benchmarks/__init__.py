"""Measurements against peers: each module runs by itself, as `python -m benchmarks.NAME --help` says."""
