-- How fast does each budget burn, and when is it empty at that rate? The soonest first.
--
-- The rate is what was charged in the last `days` days, in equal parts a day: too low for a project that is younger. A
-- renewal or a top-up to come is not counted in. A budget that was charged has an entry in these days, so the newest
-- entry in them states its balance. What does not divide is rounded down.
WITH
    -sumIf(amount, kind IN ('charge', 'correction')) AS spent,
    argMax(balance, (offset, position))         AS balance_now
SELECT
    project,
    environment,
    toDecimal128(spent, 6) / (1000000 * {days:UInt32})            AS credits_per_day,
    toDecimal128(balance_now, 6) / 1000000      AS credits_left,
    toDecimal128(balance_now, 1) * {days:UInt32} / spent    AS days_left
FROM ledger_entries
WHERE booked_at >= now('UTC') - toIntervalDay({days:UInt32})
GROUP BY project, environment
HAVING spent > 0
ORDER BY days_left, project, environment
