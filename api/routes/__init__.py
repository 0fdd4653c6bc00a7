"""The HTTP calls, one file a noun: each checks who asks, sends a command or reads, and shapes the answer."""
