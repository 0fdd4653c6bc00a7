-- Which events could not be accepted in the last `days` days, and why?
--
-- A crash may repeat a dead letter; (topic, partition, offset, position) names the event, so that is what is counted.
SELECT
    code,
    field,
    uniqExact((topic, partition, offset, position))     AS events,
    min(received_at)                                    AS first_at,
    max(received_at)                                    AS last_at,
    argMax(detail, received_at)                         AS latest_detail
FROM dead_letters
WHERE received_at >= now('UTC') - toIntervalDay({days:UInt32})
GROUP BY code, field
ORDER BY events DESC, code, field
