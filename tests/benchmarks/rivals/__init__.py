"""Rivals that do the benchmarks' work by other means. Their drivers are in the group `bench` of pyproject."""
