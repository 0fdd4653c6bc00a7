"""Tests of the worker: crashes, leases, gaps, batches, bad input."""
