-- Which budgets are empty within 7 days, if they burn as they did in the last `days` days? The soonest first.
--
-- A renewal or a top-up to come is not counted in, nor is what is held for jobs counted as spent.
WITH
    -sumIf(amount, kind IN ('charge', 'correction')) AS spent,
    argMax(balance, (offset, position))         AS balance_now
SELECT
    project,
    environment,
    toDecimal128(balance_now, 6) / 1000000      AS credits_left,
    toDecimal128(balance_now, 1) * {days:UInt32} / spent    AS days_left
FROM ledger_entries
WHERE booked_at >= now('UTC') - toIntervalDay({days:UInt32})
GROUP BY project, environment
HAVING spent > 0 AND days_left < 7
ORDER BY days_left, project, environment
