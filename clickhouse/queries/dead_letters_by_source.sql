-- Whose events could not be accepted in the last `days` days, and why?
--
-- The source is what the event names, and empty where it can't be read. A crash may repeat a dead letter.
SELECT
    source,
    code,
    uniqExact((topic, partition, offset, position))     AS events,
    uniqExact(project)                                  AS projects,
    max(received_at)                                    AS last_at,
    argMax(detail, received_at)                         AS latest_detail
FROM dead_letters
WHERE received_at >= now('UTC') - toIntervalDay({days:UInt32})
GROUP BY source, code
ORDER BY events DESC, source, code
