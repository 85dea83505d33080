"""Measured comparisons on this machine, written into BENCHMARKS.md. Start reading at loop.py."""
