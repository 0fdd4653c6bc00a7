"""Tests of a laptop's real parts: the broker, ClickHouse's front, the lifeline."""
