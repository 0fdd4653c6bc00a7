"""Tests of the dashboard, in a real browser wherever a browser decides."""
