"""Copies of accounts outside the worker's memory: RocksDB files, and the API's view of the accounts changelog."""
