-- What did each project's customers use in the last `days` days, and what did it cost?
--
-- A customer is the `customer_id` that the event's metadata names; '' stands for the use that names none.
-- Uses are counted where quantity > 0: a charge that two grants pay for has two rows, and only the first bears its
-- quantity. What a correction takes back has a quantity below 0, and counts against them.
SELECT
    project,
    customer_id,
    operation,
    toInt64(countIf(quantity > 0)) - toInt64(countIf(quantity < 0)) AS uses,
    sum(quantity)                               AS units,
    toDecimal128(-sum(amount), 6) / 1000000     AS credits
FROM facts
WHERE kind IN ('charge', 'correction') AND booked_at >= now('UTC') - toIntervalDay({days:UInt32})
GROUP BY project, customer_id, operation
ORDER BY project, customer_id, credits DESC, operation
