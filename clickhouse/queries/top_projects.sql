-- Which 50 projects spent the most in the last 30 days, and what share of all spending is theirs?
--
-- An event's facts share (partition, offset, intDiv(position, 4096)): a social post with an image is one event with
-- two charges. What corrections gave back is taken off the credits.
SELECT
    project,
    uniqExactIf((partition, offset, intDiv(position, 4096)), kind = 'charge')  AS events,
    toDecimal128(-sum(amount), 6) / 1000000                             AS credits,
    round(100 * sum(amount) / nullIf(sum(sum(amount)) OVER (), 0), 2)   AS share_percent,
    max(booked_at)                                                      AS last_charged_at
FROM facts
WHERE kind IN ('charge', 'correction') AND booked_at >= now() - INTERVAL 30 DAY
GROUP BY project
ORDER BY credits DESC, project
LIMIT 50
