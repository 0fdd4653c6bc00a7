-- How many credits does each project's budget hold?
--
-- A balance is the sum of the ledger's entries; the newest entry states it too, and `agrees` must be 1 everywhere.
-- A renewal is booked when its account is next touched, so an idle project's may still be to come.
SELECT
    project,
    environment,
    toDecimal128(sum(amount), 6) / 1000000              AS credits,
    sum(amount) = argMax(balance, (offset, position))   AS agrees,
    count()                                             AS entries,
    max(booked_at)                                      AS last_entry_at
FROM ledger_entries
GROUP BY project, environment
ORDER BY project, environment
