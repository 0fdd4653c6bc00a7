"""The rules, pure: no I/O, no clock, no randomness. See README.md for what must always hold."""
