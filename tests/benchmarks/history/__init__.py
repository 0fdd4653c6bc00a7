"""`meterline bench history`: what analysts and customers ask, of a history made inside ClickHouse."""
