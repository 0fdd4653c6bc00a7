-- Views whose `count()` and sums mean what they say, with credits as exact decimals.
--
-- Grants that pay for one line together have an entry each: here they are one row again. Its key begins as the table's
-- does, so a condition on project and booked_at reads a range of it.
CREATE OR REPLACE VIEW usage
(
    project       String                 COMMENT 'the project''s id',
    environment   LowCardinality(String) COMMENT 'production or preview',
    booked_at     DateTime64(3, 'UTC')   COMMENT 'when it was decided, UTC: a period of it that is over never changes',
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
    price_version LowCardinality(String) COMMENT 'the price book that it was priced by',
    reason        LowCardinality(String) COMMENT 'empty: a use; captured: a job; recurring: a month of an item; given_back or charged: a correction',
    metadata      String                 COMMENT 'what the event says of itself: a JSON object, or empty'
)
COMMENT 'One row is one use that was charged, with all that it cost. A correction is rows of its own, at the time it was booked: one takes the use back, with uses and credits below 0, and one charges it anew.'
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
GROUP BY project, booked_at, partition, offset, intDiv(position, 4096), environment, operation, reason, occurred_at;

-- What was charged when it was used, without what corrections said later: no row is negative.
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
WHERE reason NOT IN ('given_back', 'charged');

CREATE OR REPLACE VIEW ledger_entries
COMMENT 'One row is one ledger entry: for each project and environment, the sum of amount is the balance.'
AS SELECT
    concat(toString(partition), '-', toString(offset), '-', toString(position)) AS entry_id,
    *,
    customer_id
FROM facts
WHERE kind IN ('charge', 'grant', 'expiry', 'refund', 'correction');
ALTER TABLE ledger_entries
    COMMENT COLUMN entry_id 'the entry''s public id, as the API gives it',
    COMMENT COLUMN partition 'the Kafka partition; with offset and position the name of the fact',
    COMMENT COLUMN offset 'the offset of the intake record that caused it',
    COMMENT COLUMN position 'its place among what that record caused; each event has 4,096 places to itself',
    COMMENT COLUMN journal_offset 'the offset of the journal record that brought it',
    COMMENT COLUMN kind 'what happened: charge, grant, refusal, ...; clickhouse/README.md lists them',
    COMMENT COLUMN project 'the project''s id',
    COMMENT COLUMN environment 'production or preview: each has a budget of its own',
    COMMENT COLUMN operation 'what was used, such as image',
    COMMENT COLUMN quantity 'units; 0 on the second grant that pays for a line, below 0 where a correction takes usage back',
    COMMENT COLUMN amount 'signed microcredits (1 credit is 1,000,000): a charge is negative',
    COMMENT COLUMN balance 'microcredits that the environment''s budget held after it',
    COMMENT COLUMN grant_id 'the grant that it draws on or makes',
    COMMENT COLUMN reason 'why, in a word: see kind',
    COMMENT COLUMN price_version 'the price book that it was priced by',
    COMMENT COLUMN source 'the event''s source: which producer sent it; empty where no event brought it',
    COMMENT COLUMN event_id 'the event''s id, unique within its source',
    COMMENT COLUMN job_id 'the job that the credits were held for',
    COMMENT COLUMN key_id 'the API key that it came with; empty for Kafka and for what time brings',
    COMMENT COLUMN occurred_at 'when the producer says it happened, UTC',
    COMMENT COLUMN booked_at 'when it was decided, UTC: group money by it, since a period that is over never changes',
    COMMENT COLUMN metadata 'what the event says of itself: a JSON object, or empty',
    COMMENT COLUMN held 'signed change of held microcredits, within the balance',
    COMMENT COLUMN cents 'US cents due for this fact; negative is given back',
    COMMENT COLUMN billing_account 'the billing account whose invoice it is on, or empty: the project''s own',
    COMMENT COLUMN surcharge 'of a use that was not charged now: what is billed beside its operation',
    COMMENT COLUMN customer_id 'the customer that the metadata names, or empty';
