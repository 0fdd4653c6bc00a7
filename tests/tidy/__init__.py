"""Tidy checks: each takes a tree of files and returns complaints, one a line; `tests/test_tidy.py` wants none."""
