-- What happened to one project's credits? Its newest 1,000 entries, newest first, each with the balance after it.
--
-- To choose the project, put its id in quotes in place of the subquery: WITH 'my_project' AS wanted. As it stands, it
-- is the one whose entry is the newest of all.
WITH (SELECT argMax(project, booked_at) FROM ledger_entries) AS wanted
SELECT
    booked_at,
    entry_id,
    environment,
    kind,
    operation,
    quantity,
    toDecimal128(amount, 6) / 1000000       AS credits,
    toDecimal128(balance, 6) / 1000000      AS balance_credits,
    grant_id,
    reason,
    price_version,
    source,
    event_id,
    job_id,
    customer_id,
    occurred_at
FROM ledger_entries
WHERE project = wanted
ORDER BY booked_at DESC, partition DESC, offset DESC, position DESC
LIMIT 1000
