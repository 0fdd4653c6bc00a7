"""The embedded parts, real ones for a laptop: Kafka, ClickHouse's HTTP front, and the lifeline that ends a child with
its parent."""
