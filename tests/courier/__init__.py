"""Tests of the courier: its pure parts, and on a real broker with a real receiver."""
