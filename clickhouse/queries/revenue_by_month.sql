-- What did each month bring in, in US dollars, by what it was paid for?
--
-- Months are UTC and those of booking, as on invoices, so a month that is over never changes. A payer is a billing
-- account, or a project of its own. Use is prepaid: it brings in nothing when it happens.
SELECT
    toStartOfMonth(booked_at)                                               AS month,
    uniqExact((billing_account, if(billing_account = '', project, '')))     AS payers,
    toDecimal128(sumIf(cents, kind = 'subscription'), 2) / 100              AS plans_usd,
    toDecimal128(sumIf(cents, kind = 'grant'), 2) / 100                     AS bundles_usd,
    toDecimal128(sumIf(cents, kind = 'refund'), 2) / 100                    AS refunds_usd,
    toDecimal128(sum(cents), 2) / 100                                       AS total_usd
FROM facts
WHERE cents != 0
GROUP BY month
ORDER BY month DESC
