"""What is shown of an account, an invoice or a CSV cell; routes and the command line share it."""
