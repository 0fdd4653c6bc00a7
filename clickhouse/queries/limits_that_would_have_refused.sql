-- Which limits on trial would have refused requests in the last `days` days, and what share of those that came?
--
-- Of each project the newest trial, from when it began until it ended, or now. Usage events that were sent by HTTP are
-- among the requests, though no limit counts them. What an API process refused by itself is one row for many requests. 429 is `rate_limited`; what no wait would help is `never`.
WITH trials AS
(
    SELECT
        project,
        maxIf((offset, position), has_limits)                   AS began,
        maxIf((offset, position), NOT has_limits)               AS ended,
        argMaxIf(metadata, (offset, position), has_limits)      AS on_trial
    FROM
    (
        SELECT *, match(metadata, '"(requests_per_minute|burst|cost_ceiling)":') AS has_limits
        FROM facts
        WHERE kind = 'limits' AND reason = 'shadow'
    )
    GROUP BY project
)
SELECT
    project,
    any(on_trial)                                                               AS limits_on_trial,
    uniqExactIf((partition, offset, intDiv(position, 4096)), key_id != '')
        + sumIf(quantity - 1, kind = 'refusal' AND reason = 'limited_at_edge')  AS requests,
    sumIf(if(source = '', quantity, 1), kind = 'shadow')                        AS would_be_refused,
    sumIf(if(source = '', quantity, 1), kind = 'shadow' AND reason = 'rate_limited') AS rate_limited,
    countIf(kind = 'shadow' AND reason = 'over_cost_ceiling')                   AS never,
    round(100 * would_be_refused / requests, 2)                                 AS share_percent,
    minIf(booked_at, kind = 'shadow')                                           AS first_at,
    maxIf(booked_at, kind = 'shadow')                                           AS last_at
FROM facts
INNER JOIN trials USING (project)
WHERE booked_at >= now('UTC') - toIntervalDay({days:UInt32}) AND (offset, position) > began
    AND (ended < began OR (offset, position) < ended)
    AND (kind IN ('request', 'shadow') OR (kind IN ('charge', 'hold') AND reason = '')
        OR (kind = 'refusal' AND (source != '' OR reason IN ('rate_limited', 'limited_at_edge'))))
GROUP BY project
HAVING would_be_refused > 0
ORDER BY would_be_refused DESC, project
