"""A laptop's real parts: Kafka, ClickHouse's HTTP front, and the lifeline that ends a child with its parent."""
