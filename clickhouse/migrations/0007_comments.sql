-- What each column means, where an analyst's tool shows it.
ALTER TABLE facts
    COMMENT COLUMN partition 'the Kafka partition; with offset and position the name of the fact',
    COMMENT COLUMN offset 'the offset of the intake record that caused it',
    COMMENT COLUMN position 'its place among what that record caused; each event has 4,096 places to itself',
    COMMENT COLUMN journal_offset 'the offset of the journal record that brought it',
    COMMENT COLUMN kind 'what happened: charge, grant, refusal, ...; clickhouse/README.md lists them',
    COMMENT COLUMN project 'the project''s id',
    COMMENT COLUMN environment 'production or preview: each has a budget of its own',
    COMMENT COLUMN operation 'what was used, such as image',
    COMMENT COLUMN quantity 'units; 0 on the second grant that pays for a line, below 0 where a correction takes usage back',
    COMMENT COLUMN uses '1 for a use, 0 for a further grant that pays for it, -1 where a correction takes it back: sum it to count uses',
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
    COMMENT COLUMN t 'the quarter hour of booked_at, UTC: group and filter by it, and sums come from a projection',
    COMMENT COLUMN metadata 'what the event says of itself: a JSON object, or empty',
    COMMENT COLUMN held 'signed change of held microcredits, within the balance',
    COMMENT COLUMN cents 'US cents due for this fact; negative is given back',
    COMMENT COLUMN billing_account 'the billing account whose invoice it is on, or empty: the project''s own',
    COMMENT COLUMN surcharge 'of a use that was not charged now: what is billed beside its operation',
    COMMENT COLUMN customer_id 'the customer that the metadata names, or empty',
    MODIFY COMMENT 'One row is one thing that was decided, and stays as it is. For use, the view usage is simpler.';

-- The event is kept as its bytes, whatever they are. What can be read of it stands beside it.
ALTER TABLE dead_letters
    ADD COLUMN IF NOT EXISTS source String MATERIALIZED JSONExtractString(event, 'source') AFTER event,
    ADD COLUMN IF NOT EXISTS project String MATERIALIZED JSONExtractString(event, 'subject') AFTER source,
    ADD COLUMN IF NOT EXISTS event_id String MATERIALIZED JSONExtractString(event, 'id') AFTER project,
    ADD INDEX IF NOT EXISTS event_ids event_id TYPE bloom_filter(0.01) GRANULARITY 1;
ALTER TABLE dead_letters
    MATERIALIZE COLUMN source,
    MATERIALIZE COLUMN project,
    MATERIALIZE COLUMN event_id,
    MATERIALIZE INDEX event_ids
SETTINGS mutations_sync = 0;
ALTER TABLE dead_letters
    COMMENT COLUMN journal_partition 'the partition of the dead letter on its own topic',
    COMMENT COLUMN journal_offset 'its offset there',
    COMMENT COLUMN code 'why it was refused, in a word; errors in the API''s documentation',
    COMMENT COLUMN detail 'why it was refused, in a sentence',
    COMMENT COLUMN field 'the field that is wrong, or empty',
    COMMENT COLUMN topic 'the topic that the event stood on',
    COMMENT COLUMN partition 'its partition; with topic, offset and position the name of the event',
    COMMENT COLUMN offset 'its offset',
    COMMENT COLUMN position 'its place within a batch',
    COMMENT COLUMN received_at 'when it was refused, UTC',
    COMMENT COLUMN event 'the event as it came, as bytes: nothing in it was trusted',
    COMMENT COLUMN source 'the source that the event names; empty where it can''t be read',
    COMMENT COLUMN project 'the project (`subject`) that the event names, whether or not there is one',
    COMMENT COLUMN event_id 'the id that the event names',
    MODIFY COMMENT 'One row is one event that was refused before it could change an account; a crash may repeat a row.';

ALTER TABLE answers
    COMMENT COLUMN partition 'the partition of the answer on its topic',
    COMMENT COLUMN log_offset 'the offset of its record there',
    COMMENT COLUMN position 'its place within the record',
    COMMENT COLUMN request_id 'the id that the caller was told, or chose',
    COMMENT COLUMN answered_at 'when it was answered, UTC',
    COMMENT COLUMN kept_until 'when it may be removed, UTC',
    COMMENT COLUMN operation 'the call, such as POST /v1/admissions',
    COMMENT COLUMN status 'the HTTP status',
    COMMENT COLUMN project 'the project; empty where an admin key asked, or no valid key',
    COMMENT COLUMN environment 'production, preview, or empty',
    COMMENT COLUMN key_id 'the API key that asked',
    COMMENT COLUMN code 'the refusal''s code, or empty',
    COMMENT COLUMN reply 'the body of a refusal',
    COMMENT COLUMN entry_ids 'the decisions that it told of',
    MODIFY COMMENT 'One row is one answer of the HTTP service that refused a request or told of a decision.';
