-- Sums of use that commit with their part, so they equal the rows at every moment (docs/decisions/0057). Each is served only to
-- a question that is made of the very same expressions: group and filter by `t`, not by `booked_at`, and sum `uses`.
ALTER TABLE facts
    ADD COLUMN IF NOT EXISTS uses Int8 MATERIALIZED sign(quantity) AFTER quantity,
    ADD COLUMN IF NOT EXISTS t DateTime('UTC') ALIAS toStartOfInterval(booked_at, INTERVAL 15 MINUTE) AFTER booked_at;
-- Quarter hours, since there are time zones of half hours and of quarter hours.
ALTER TABLE facts
    ADD PROJECTION IF NOT EXISTS by_project
    (
        SELECT
            project, toStartOfInterval(booked_at, INTERVAL 15 MINUTE), environment, operation, kind, reason,
            sum(amount), sum(quantity), sum(uses), sum(held), sum(cents), count()
        GROUP BY project, toStartOfInterval(booked_at, INTERVAL 15 MINUTE), environment, operation, kind, reason
    ),
    ADD PROJECTION IF NOT EXISTS by_operation
    (
        SELECT
            toStartOfInterval(booked_at, INTERVAL 15 MINUTE), environment, operation, kind, reason,
            sum(amount), sum(quantity), sum(uses), sum(held), sum(cents), count()
        GROUP BY toStartOfInterval(booked_at, INTERVAL 15 MINUTE), environment, operation, kind, reason
    ),
    ADD INDEX IF NOT EXISTS event_ids event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    ADD INDEX IF NOT EXISTS job_ids job_id TYPE bloom_filter(0.01) GRANULARITY 1;
-- What was written before gets them in the background: `meterline migrate` shows how far that is, and questions read
-- the rows themselves until then.
ALTER TABLE facts
    MATERIALIZE COLUMN uses,
    MATERIALIZE INDEX event_ids,
    MATERIALIZE INDEX job_ids,
    MATERIALIZE PROJECTION by_project,
    MATERIALIZE PROJECTION by_operation
SETTINGS mutations_sync = 0;
