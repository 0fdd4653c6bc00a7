"""The calls, by what they are for."""
