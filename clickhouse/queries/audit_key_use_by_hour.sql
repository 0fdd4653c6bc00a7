-- What was each API key used for in the last `days` days, by the hour of the zone `tz`: how often, how often refused, first and last?
--
-- A request that leaves several facts is one use; its first fact says what was asked for. What an API process refused by
-- itself is one fact for many uses. Calls of Meterline's own API
-- that are counted stand beside them, as "GET /v1/balance". Events that came by Kafka bear no key.
SELECT
    toStartOfHour(used_at, {tz:String}) AS hour,
    project,
    key                             AS key_id,
    used_in                         AS environment,
    used_for                        AS operation,
    sum(requests)                   AS uses,
    sumIf(requests, was_refused)    AS refused,
    min(used_at)                    AS first_at,
    max(used_at)                    AS last_at
FROM
(
    SELECT
        project,
        argMin(key_id, position)        AS key,
        argMin(environment, position)   AS used_in,
        argMin(operation, position)     AS used_for,
        min(booked_at)                  AS used_at,
        countIf(kind = 'refusal') > 0   AS was_refused,
        max(if(reason = 'limited_at_edge', quantity, 1)) AS requests
    FROM facts
    WHERE booked_at >= now('UTC') - toIntervalDay({days:UInt32}) AND key_id != ''
        AND (kind IN ('request', 'duplicate') OR (kind IN ('charge', 'hold') AND reason = '')
            OR (kind = 'refusal' AND (source != '' OR reason IN ('rate_limited', 'limited_at_edge'))))
    GROUP BY project, partition, offset, intDiv(position, 4096)
)
GROUP BY hour, project, key_id, environment, operation
ORDER BY hour DESC, project, key_id, environment, operation
