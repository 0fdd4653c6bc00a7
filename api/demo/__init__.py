"""The demo: a recorded trace, its replay through a running stack, and the report of what came of it."""
