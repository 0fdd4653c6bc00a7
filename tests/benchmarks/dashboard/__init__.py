"""The dashboard's benchmark, and what its open streams cost."""
