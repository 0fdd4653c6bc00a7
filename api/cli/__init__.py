"""The command line: `main` finds the command, and each other file holds one command or one group of them."""
