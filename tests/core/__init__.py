"""Tests of the rules: examples, properties, and the ledger machine. All are pure."""
