-- Which producers sent events more than once in the last 30 days, and how often?
--
-- A duplicate costs its project nothing. Many of them mean that a producer sends again before it has to, or that its
-- ids are not unique. `decided` are the events that were charged or refused.
SELECT
    source,
    countIf(kind = 'duplicate')                                                                 AS duplicates,
    uniqExactIf((project, event_id), kind = 'duplicate')                                        AS ids_repeated,
    uniqExactIf((partition, offset, intDiv(position, 4096)), kind IN ('charge', 'refusal'))     AS decided,
    uniqExactIf(project, kind = 'duplicate')                                                    AS projects,
    maxIf(booked_at, kind = 'duplicate')                                                        AS last_at
FROM facts
WHERE kind IN ('charge', 'refusal', 'duplicate') AND booked_at >= now() - INTERVAL 30 DAY
GROUP BY source
HAVING duplicates > 0
ORDER BY duplicates DESC, source
