"""Questions to the history in ClickHouse: ledger, usage, receipts, audit, invoices, past balances and limits."""
