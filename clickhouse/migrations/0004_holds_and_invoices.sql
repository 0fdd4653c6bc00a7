-- What is held for jobs, what is due in money, and on whose invoice.
ALTER TABLE facts
    ADD COLUMN IF NOT EXISTS held Int64 DEFAULT 0 COMMENT 'signed change of held microcredits, within the balance' AFTER metadata,
    ADD COLUMN IF NOT EXISTS cents Int64 DEFAULT 0 COMMENT 'US cents due for this fact; negative is given back' AFTER held,
    ADD COLUMN IF NOT EXISTS billing_account LowCardinality(String) DEFAULT '' AFTER cents,
    ADD COLUMN IF NOT EXISTS surcharge LowCardinality(String) DEFAULT '' COMMENT 'of a use that was not charged now: what is billed beside its operation' AFTER billing_account;
-- A correction that takes usage back has a negative quantity.
ALTER TABLE facts MODIFY COLUMN quantity Int64;
-- A correction puts an event right, so it moves credits too.
CREATE OR REPLACE VIEW ledger_entries AS
SELECT
    concat(toString(partition), '-', toString(offset), '-', toString(position)) AS entry_id,
    *,
    customer_id
FROM facts
WHERE kind IN ('charge', 'grant', 'expiry', 'refund', 'correction');
