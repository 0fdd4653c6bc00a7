"""The views of the dashboard, one noun a file: each asks the API's own routes and renders a template."""
