-- Usage from before Meterline, loaded from files (docs/decisions/0059). It is no fact: nothing was decided, no balance or
-- mark knows of it. Its columns have the names of those of facts that usage is asked by.
CREATE TABLE IF NOT EXISTS backfilled
(
    project     String                 COMMENT 'the project''s id',
    environment LowCardinality(String) COMMENT 'production or preview',
    operation   LowCardinality(String) COMMENT 'what was used, as the file names it',
    quantity    Int64                  COMMENT 'units',
    amount      Int64                  COMMENT 'signed microcredits, as in facts: below 0 is what it cost',
    source      LowCardinality(String) COMMENT 'which system''s use it is',
    event_id    String                 COMMENT 'the use''s id, unique within project and source' CODEC(ZSTD(1)),
    occurred_at DateTime64(3, 'UTC')   COMMENT 'when it happened, UTC: before its project was opened' CODEC(Delta, ZSTD(1)),
    metadata    String                 COMMENT 'what the file says of it: a JSON object, or empty' CODEC(ZSTD(1)),
    loaded_at   DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'when it was loaded, UTC' CODEC(Delta, ZSTD(1)),
    name_hash   UInt64 MATERIALIZED cityHash64(project, source, event_id) COMMENT 'by which a use that comes again is known',
    customer_id String MATERIALIZED JSONExtractString(metadata, 'customer_id') COMMENT 'the customer that the metadata names, or empty' CODEC(ZSTD(1)),
    booked_at   DateTime64(3, 'UTC') ALIAS occurred_at COMMENT 'when it happened: it was never booked',
    t           DateTime('UTC') ALIAS toStartOfInterval(occurred_at, INTERVAL 15 MINUTE) COMMENT 'the quarter hour of occurred_at, UTC',
    uses        Int8 ALIAS 1 COMMENT '1: each row is a use',
    kind        String ALIAS 'charge' COMMENT 'as what usage counts it',
    reason      String ALIAS 'backfilled' COMMENT 'what tells it from what Meterline charged'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(occurred_at)
ORDER BY (project, occurred_at, source, event_id)
COMMENT 'One row is one use from before Meterline, loaded by `meterline backfill`. It is in the view usage, and in no ledger.';

-- The view of use has it too, under a reason of its own. A condition on project and booked_at reads a range of either table.
CREATE OR REPLACE VIEW usage
(
    project       String                 COMMENT 'the project''s id',
    environment   LowCardinality(String) COMMENT 'production or preview',
    booked_at     DateTime64(3, 'UTC')   COMMENT 'when it was decided, UTC: a period of it that is over never changes; of what was backfilled occurred_at',
    occurred_at   DateTime64(3, 'UTC')   COMMENT 'when the producer says it happened, UTC',
    operation     LowCardinality(String) COMMENT 'what was used, such as image',
    uses          Int64                  COMMENT '1; of a use that a correction takes back -1. It sums to the uses that stand',
    quantity      Int64                  COMMENT 'units; below 0 where a correction takes them back',
    credits       Decimal(18, 6)         COMMENT 'credits spent; below 0 where a correction gives them back',
    customer_id   String                 COMMENT 'the customer that the metadata names, or empty',
    source        LowCardinality(String) COMMENT 'which producer sent the event; empty where none brought it',
    event_id      String                 COMMENT 'the event''s id, unique within its source',
    job_id        String                 COMMENT 'the job that the credits were held for, or empty',
    key_id        LowCardinality(String) COMMENT 'the API key that it came with; empty for Kafka',
    price_version LowCardinality(String) COMMENT 'the price book that it was priced by; empty for what was backfilled',
    reason        LowCardinality(String) COMMENT 'empty: a use; captured: a job; recurring: a month of an item; given_back or charged: a correction; backfilled: from before Meterline, in no ledger',
    metadata      String                 COMMENT 'what the event says of itself: a JSON object, or empty'
)
COMMENT 'One row is one use that was charged, with all that it cost, or that was backfilled from before Meterline. A correction is rows of its own, at the time it was booked: one takes the use back, with uses and credits below 0, and one charges it anew.'
AS SELECT
    project,
    environment,
    booked_at,
    occurred_at,
    operation,
    sum(facts.uses)                           AS uses,
    sum(facts.quantity)                       AS quantity,
    toDecimal128(-sum(amount), 6) / 1000000   AS credits,
    any(customer_id)                          AS customer_id,
    any(source)                               AS source,
    any(event_id)                             AS event_id,
    any(job_id)                               AS job_id,
    any(key_id)                               AS key_id,
    any(price_version)                        AS price_version,
    reason,
    any(metadata)                             AS metadata
FROM facts
WHERE kind IN ('charge', 'correction')
GROUP BY project, booked_at, partition, offset, intDiv(position, 4096), environment, operation, reason, occurred_at
UNION ALL
SELECT
    project,
    environment,
    booked_at,
    occurred_at,
    operation,
    toInt64(backfilled.uses),
    backfilled.quantity,
    toDecimal128(-amount, 6) / 1000000,
    customer_id,
    source,
    event_id,
    '',
    '',
    '',
    toLowCardinality(backfilled.reason),
    metadata
FROM backfilled;

-- Nothing of it was charged.
CREATE OR REPLACE VIEW charges
(
    project       String                 COMMENT 'the project''s id',
    environment   LowCardinality(String) COMMENT 'production or preview',
    booked_at     DateTime64(3, 'UTC')   COMMENT 'when it was decided, UTC',
    occurred_at   DateTime64(3, 'UTC')   COMMENT 'when the producer says it happened, UTC',
    operation     LowCardinality(String) COMMENT 'what was used, such as image',
    quantity      Int64                  COMMENT 'units',
    credits       Decimal(18, 6)         COMMENT 'credits spent, before corrections',
    customer_id   String                 COMMENT 'the customer that the metadata names, or empty',
    source        LowCardinality(String) COMMENT 'which producer sent the event; empty where none brought it',
    event_id      String                 COMMENT 'the event''s id, unique within its source',
    job_id        String                 COMMENT 'the job that the credits were held for, or empty',
    key_id        LowCardinality(String) COMMENT 'the API key that it came with; empty for Kafka',
    price_version LowCardinality(String) COMMENT 'the price book that it was priced by',
    reason        LowCardinality(String) COMMENT 'empty: a use; captured: a job; recurring: a month of an item',
    metadata      String                 COMMENT 'what the event says of itself: a JSON object, or empty'
)
COMMENT 'One row is one use that was charged, as it was charged at first. What corrections changed is in the view usage.'
AS SELECT * EXCEPT (uses)
FROM usage
WHERE reason NOT IN ('given_back', 'charged', 'backfilled');
