"""Tests of topics, codecs, and what is on a Kafka of one's own."""
