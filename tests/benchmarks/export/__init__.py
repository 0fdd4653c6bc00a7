"""The benchmark of files of usage."""
