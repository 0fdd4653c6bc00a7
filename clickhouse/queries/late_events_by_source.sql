-- Whose events came late in the last `days` days: how many by more than an hour or a day, and how late at most?
--
-- Late is what is decided long after it occurred. What corrections booked is left out: it is late on purpose.
SELECT
    source,
    count()                                                         AS uses,
    countIf(dateDiff('second', occurred_at, booked_at) > 3600)                         AS later_than_an_hour,
    countIf(dateDiff('second', occurred_at, booked_at) > 86400)                        AS later_than_a_day,
    max(dateDiff('second', occurred_at, booked_at))                 AS latest_seconds
FROM charges
WHERE booked_at >= now('UTC') - toIntervalDay({days:UInt32}) AND source != ''
GROUP BY source
ORDER BY later_than_an_hour DESC, source
