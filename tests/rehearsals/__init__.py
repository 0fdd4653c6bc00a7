"""Tests of rehearsals: recorded days under other prices or limits."""
