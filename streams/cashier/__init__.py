"""The cashier, who takes money: the purchases of auto-recharge, and the payment providers they go through."""
