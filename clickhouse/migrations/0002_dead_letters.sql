-- Events that were refused before they could change an account, with the reason. A crash may repeat a dead letter on
-- its topic; (topic, partition, offset, position) names the event, so count with uniqExact over it.
CREATE TABLE IF NOT EXISTS dead_letters
(
    journal_partition UInt16,
    journal_offset    UInt64,
    code              LowCardinality(String),
    detail            String,
    field             LowCardinality(String),
    topic             LowCardinality(String),
    partition         UInt16,
    offset            UInt64,
    position          UInt32,
    received_at       DateTime64(3, 'UTC'),
    event             String
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY (code, received_at, topic, partition, offset, position)
TTL toDateTime(received_at) + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 1000;
