-- Answers of the HTTP service that refused a request or told of a decision, so that a request's id leads to why. They
-- are no facts: a process that is killed may lose those of its last second, and a flood of refusals is kept in part.
CREATE TABLE IF NOT EXISTS answers
(
    partition    UInt16,
    log_offset   UInt64,
    position     UInt32,
    request_id   String,
    answered_at  DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    kept_until   DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    operation    LowCardinality(String),
    status       UInt16,
    project      String,
    environment  LowCardinality(String),
    key_id       String,
    code         LowCardinality(String),
    reply        String CODEC(ZSTD),
    entry_ids    Array(String)
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(answered_at)
ORDER BY (request_id, answered_at)
TTL toDateTime(kept_until)
SETTINGS non_replicated_deduplication_window = 1000;
