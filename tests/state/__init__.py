"""Tests of the copies of accounts: RocksDB files and price broadcasts."""
