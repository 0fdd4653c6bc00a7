"""Benchmarks, and the baselines they are measured against."""
