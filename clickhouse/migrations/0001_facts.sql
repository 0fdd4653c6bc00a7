-- Every fact of the journal, once. One table, so that one insert is one block and what is missing after a crash is
-- always the newest: the historian asks this table how far it got (max of (offset, position) per partition).
--
-- PARTITION BY booked_at: it rises with the offset, so an insert that spans a month's end can be split in order.
-- ORDER BY project first: every question but an analyst's is about one project.
CREATE TABLE IF NOT EXISTS facts
(
    partition      UInt16,
    offset         UInt64,
    position       UInt32,
    journal_offset UInt64,
    kind           LowCardinality(String),
    project        String,
    environment    LowCardinality(String),
    operation      LowCardinality(String),
    quantity       UInt32,
    amount         Int64  COMMENT 'signed microcredits: a charge is negative',
    balance        Int64  COMMENT 'microcredits the environment''s budget held after it',
    grant_id       String,
    reason         LowCardinality(String),
    price_version  LowCardinality(String),
    source         LowCardinality(String),
    event_id       String,
    job_id         String,
    key_id         LowCardinality(String),
    occurred_at    DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    booked_at      DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    metadata       String COMMENT 'a JSON object, or empty',
    customer_id    String MATERIALIZED JSONExtractString(metadata, 'customer_id'),

    -- Commits with its part, so it can never count a row twice, as a materialized view could after a repeat.
    PROJECTION marks
    (
        SELECT partition, max((offset, position)), max(journal_offset) GROUP BY partition
    )
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(booked_at)
ORDER BY (project, booked_at, partition, offset, position)
-- A client that lost the answer to an insert sends the block again: the same block is then taken once. No two blocks
-- are the same otherwise, since (partition, offset, position) is in every row.
SETTINGS non_replicated_deduplication_window = 1000;

-- What finance and customers call the ledger: the facts that move credits, with their public id.
CREATE VIEW IF NOT EXISTS ledger_entries AS
SELECT
    concat(toString(partition), '-', toString(offset), '-', toString(position)) AS entry_id,
    *,
    customer_id
FROM facts
WHERE kind IN ('charge', 'grant', 'expiry');
