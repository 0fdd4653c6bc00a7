"""Callers of the HTTP service: their API keys and scopes, the counting of their calls, the addresses they call from."""
