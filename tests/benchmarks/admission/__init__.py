"""The admission benchmark: callers at once, by library and HTTP, and spenders of one balance."""
