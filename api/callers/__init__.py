"""Who is calling: API keys and what they may do, the request count of a call, and the address it came from."""
