"""The dashboard: pages that the server renders, under /dashboard, for a browser that has signed in with a key."""
