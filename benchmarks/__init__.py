"""Measurements against the plain thing, side by side in one run: `python -m benchmarks [NAME …]`. Figures go into LOG.md."""
