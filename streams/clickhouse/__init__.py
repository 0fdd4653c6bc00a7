"""ClickHouse: its client, embedded or over HTTP, the schema's migrations, and the historian that writes it."""
