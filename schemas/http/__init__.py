"""The HTTP service's request and response bodies, one file a noun. Credits are decimal strings; times RFC 3339, UTC."""
