-- Erasures that the historian has begun: each is a fact too, and is noted here before its rows are changed, so that dead
-- letters which come to the history later than it are erased as well (docs/decisions/0058). A crash may note one twice.
CREATE TABLE IF NOT EXISTS erasures
(
    partition       UInt16                 COMMENT 'the Kafka partition; with offset and position the name of the fact',
    offset          UInt64                 COMMENT 'the offset of the intake record that caused it',
    position        UInt32                 COMMENT 'its place among what that record caused',
    project         String                 COMMENT 'the project whose metadata is erased',
    customer_sha256 String                 COMMENT 'the customer, by its hash (docs/decisions/0058), or empty: all of the project',
    booked_at       DateTime64(3, 'UTC')   COMMENT 'when it was asked for, UTC: what came before is erased'
)
ENGINE = ReplacingMergeTree
ORDER BY (partition, offset, position)
COMMENT 'One row is one erasure of metadata that was asked for.';
