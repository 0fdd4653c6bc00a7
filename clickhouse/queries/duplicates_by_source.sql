-- Which producers sent events more than once in the last `days` days, and how often?
--
-- A duplicate costs its project nothing. Many of them mean that a producer sends again before it has to, or that its
-- ids are not unique. What a gateway reports after its own admission is no duplicate: it is `confirmed`, once an event.
-- `decided` are the events that were charged, held or refused.
WITH
    -- An admission comes with a key. What reports the use afterwards comes by Kafka, without one.
    per_event AS
    (
        SELECT
            project,
            source,
            event_id,
            countIf(kind = 'duplicate')                                             AS repeats,
            uniqExactIf((partition, offset, intDiv(position, 4096)), kind != 'duplicate') AS decisions,
            countIf(kind != 'duplicate' AND key_id != '') > 0                       AS was_admitted,
            countIf(kind = 'duplicate' AND key_id = '' AND reason = '') > 0         AS was_reported,
            maxIf(booked_at, kind = 'duplicate')                                    AS repeated_at
        FROM facts
        WHERE kind IN ('charge', 'hold', 'refusal', 'duplicate') AND event_id != '' AND booked_at >= now('UTC') - toIntervalDay({days:UInt32})
        GROUP BY project, source, event_id
    )
SELECT
    source,
    sum(repeats - (was_admitted AND was_reported))                      AS duplicates,
    sum(was_admitted AND was_reported)                                  AS confirmed,
    countIf(repeats > (was_admitted AND was_reported))                  AS ids_repeated,
    sum(decisions)                                                      AS decided,
    uniqExactIf(project, repeats > (was_admitted AND was_reported))     AS projects,
    maxIf(repeated_at, repeats > (was_admitted AND was_reported))       AS last_at
FROM per_event
GROUP BY source
HAVING duplicates > 0 OR confirmed > 0
ORDER BY duplicates DESC, source
