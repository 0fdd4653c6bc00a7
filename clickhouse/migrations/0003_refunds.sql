-- A refund takes back what is left of a bundle, so it moves credits too.
CREATE OR REPLACE VIEW ledger_entries AS
SELECT
    concat(toString(partition), '-', toString(offset), '-', toString(position)) AS entry_id,
    *,
    customer_id
FROM facts
WHERE kind IN ('charge', 'grant', 'expiry', 'refund');
