-- Attempts to deliver notices to endpoints, for 30 days, as their topic keeps them. They are no facts: what an attempt
-- cost is one. A courier that was killed may make an attempt again, and then there are two rows of its id.
CREATE TABLE IF NOT EXISTS deliveries
(
    partition    UInt16                 COMMENT 'the Kafka partition of the topic deliveries',
    log_offset   UInt64                 COMMENT 'the offset of its record there',
    id           String                 COMMENT 'the attempt: endpoint.notice.number. A crash may repeat one: count with uniqExact(id)',
    project      String                 COMMENT 'whose endpoint it is: a project''s id, or platform: for the platform''s own',
    environment  LowCardinality(String) COMMENT 'the notice''s: production or preview, or empty',
    endpoint_id  String                 COMMENT 'the endpoint that it went to',
    notice_id    String                 COMMENT 'the notice, by the webhook-id of each of its attempts',
    notice_type  LowCardinality(String) COMMENT 'what the notice tells of, such as project.credits_low',
    number       UInt32                 COMMENT 'which attempt it is: 1 is the first, which is free',
    sent_at      DateTime64(3, 'UTC')   COMMENT 'when it was sent, UTC' CODEC(Delta, ZSTD(1)),
    status       UInt16                 COMMENT 'the HTTP status that came back; 0 where none came',
    ms           UInt32                 COMMENT 'how long it took, in milliseconds',
    answer       String                 COMMENT 'the first 4 KB of what came back, as bytes' CODEC(ZSTD(1)),
    error        String                 COMMENT 'why no status came back; empty where one did' CODEC(ZSTD(1)),
    next_at      DateTime64(3, 'UTC')   COMMENT 'when it is tried again, UTC; 1970 where it is not' CODEC(Delta, ZSTD(1)),
    is_delivered Bool                   COMMENT 'whether the endpoint took it: a status from 200 to 299',
    is_billed    Bool                   COMMENT 'whether it was charged as webhook.delivery, or by an entry of 0'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(sent_at)
ORDER BY (project, endpoint_id, sent_at)
TTL toDateTime(sent_at) + INTERVAL 30 DAY
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'One row is one attempt to deliver a notice to an endpoint, and what came of it.';
