"""The benchmark of the dashboard and of live ledgers: pages in a real browser, and many open streams."""
