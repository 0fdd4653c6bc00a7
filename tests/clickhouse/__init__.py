"""Tests of ClickHouse's client, migrations and the historian, on the real engine."""
