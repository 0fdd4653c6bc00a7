-- What was used on each of the last `days` days of the zone `tz`, by operation, and what did it cost?
--
-- Days are those of booking, so a day that is over never changes. `active_projects` had a use or a correction of one.
WITH toStartOfDay(now(), {tz:String}) - toIntervalDay({days:UInt32} - 1) AS since
SELECT
    toDate(t, {tz:String})                      AS day,
    environment,
    operation,
    uniqExact(project)                          AS active_projects,
    sum(u)                                      AS uses,
    sum(q)                                      AS units,
    toDecimal128(-sum(a), 6) / 1000000          AS credits
FROM
(
    SELECT project, environment, operation, t, sum(uses) AS u, sum(quantity) AS q, sum(amount) AS a
    FROM facts
    WHERE kind IN ('charge', 'correction') AND t >= since AND _partition_id >= toString(toYYYYMM(since, 'UTC'))
    GROUP BY project, environment, operation, t
)
GROUP BY day, environment, operation
ORDER BY day DESC, environment, credits DESC, operation
