-- Why was use refused in the last `days` days: how often, and to how many projects?
--
-- A refused request may be tried again: this counts the answers. What an API process refused by itself
-- (`limited_at_edge`) is one row for many answers. Events that could not even be read are in dead_letters_by_code.sql.
SELECT
    reason,
    operation,
    sum(if(reason = 'limited_at_edge', units, rows))    AS refusals,
    uniqExact(project)                                  AS projects,
    min(t)                                              AS first_quarter_hour,
    max(t)                                              AS last_quarter_hour
FROM
(
    SELECT project, t, operation, reason, sum(quantity) AS units, toInt64(count()) AS rows
    FROM facts
    WHERE kind = 'refusal' AND t >= toStartOfInterval(now('UTC') - toIntervalDay({days:UInt32}), INTERVAL 15 MINUTE)
        AND _partition_id >= toString(toYYYYMM(now('UTC') - toIntervalDay({days:UInt32})))
    GROUP BY project, t, operation, reason
)
GROUP BY reason, operation
ORDER BY refusals DESC, reason, operation
