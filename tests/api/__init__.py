"""Tests of the HTTP service and the command line, on a whole stack."""
