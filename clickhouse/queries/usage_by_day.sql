-- What was used on each of the last 30 days, by operation, and what did it cost?
--
-- Days are UTC and those of booking, so a day that is over never changes.
SELECT
    toDate(booked_at)                           AS day,
    environment,
    operation,
    uniqExact(project)                          AS projects,
    toInt64(countIf(quantity > 0)) - toInt64(countIf(quantity < 0)) AS uses,
    sum(quantity)                               AS units,
    toDecimal128(-sum(amount), 6) / 1000000     AS credits
FROM facts
WHERE kind IN ('charge', 'correction') AND booked_at >= toStartOfDay(now('UTC')) - INTERVAL 29 DAY
GROUP BY day, environment, operation
ORDER BY day DESC, environment, credits DESC, operation
