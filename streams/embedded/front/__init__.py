"""The rules of the embedded ClickHouse's front: what a reader may ask, of whom, and how much of it."""
