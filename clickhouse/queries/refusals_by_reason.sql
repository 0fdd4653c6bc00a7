-- Why was use refused in the last 30 days: how often, and to how many projects?
--
-- A refused request may be tried again, so `refusals` counts the answers, `events` what was asked for. What an API process
-- refused by itself (`limited_at_edge`) is one row for many answers. Events that could not even be read are in
-- dead_letters_by_code.sql.
SELECT
    reason,
    operation,
    sum(if(reason = 'limited_at_edge', quantity, 1)) AS refusals,
    uniqExact((project, source, event_id))      AS events,
    uniqExact(project)                          AS projects,
    min(booked_at)                              AS first_at,
    max(booked_at)                              AS last_at
FROM facts
WHERE kind = 'refusal' AND booked_at >= now() - INTERVAL 30 DAY
GROUP BY reason, operation
ORDER BY refusals DESC, reason, operation
