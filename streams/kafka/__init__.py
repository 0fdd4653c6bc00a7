"""Kafka: topic names and partitions, the bytes of each record, acknowledged sending, commands and their replies."""
