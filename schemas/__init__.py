"""Shapes only: what crosses a process boundary, with no behaviour beyond its own validation."""
