"""Tests of the proof: live comparison, verify, the rebuild, and an agency's whole life."""
