"""The dedup benchmark: the index of seen ids by itself, beside other ways to keep one."""
