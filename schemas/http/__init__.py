"""What the HTTP service takes and gives, one file a noun. Credits are decimal strings; times are RFC 3339, UTC."""
