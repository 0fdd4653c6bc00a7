-- Which 50 projects spent the most in the last `days` days, and what share of all spending is theirs?
--
-- A social post with an image is two uses. What corrections took back is taken off.
SELECT
    project,
    sum(u)                                                      AS uses,
    toDecimal128(-sum(a), 6) / 1000000                          AS credits,
    round(100 * sum(a) / nullIf(sum(sum(a)) OVER (), 0), 2)     AS share_percent,
    max(t)                                                      AS last_quarter_hour
FROM
(
    SELECT project, t, sum(uses) AS u, sum(amount) AS a
    FROM facts
    WHERE kind IN ('charge', 'correction') AND t >= toStartOfInterval(now('UTC') - toIntervalDay({days:UInt32}), INTERVAL 15 MINUTE)
        AND _partition_id >= toString(toYYYYMM(now('UTC') - toIntervalDay({days:UInt32})))
    GROUP BY project, t
)
GROUP BY project
ORDER BY credits DESC, project
LIMIT 50
