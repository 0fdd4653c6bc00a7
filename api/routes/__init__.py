"""The routes of the HTTP service, one file a noun. A route checks who asks, sends a command or reads, and shapes the
answer."""
