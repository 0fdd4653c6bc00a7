"""The recovery benchmark: how soon a worker is back, without its disk, with it, and after a kill."""
