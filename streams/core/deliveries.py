"""Deliveries: each retry of a webhook is a use of `webhook.delivery`, charged once, by the id of its attempt.

The attempt is made whatever becomes of its charge, and a project is never told by a notice what its notices cost.
Source: pricing, "What every operation costs".
"""

from __future__ import annotations

from schemas.commands import BillDelivery
from schemas.events import Usage
from schemas.problems import Rejection
from schemas.replies import Reply
from streams.core.acceptance import dedup_hash
from streams.core.booking import Booking, available, note
from streams.core.ledger import charge_if_covered

# The source of the uses that are deliveries; the event's id is the attempt's.
DELIVERY_SOURCE = "/webhooks"
OPERATION = "webhook.delivery"
_CHARS_MAX = 256


def bill(booking: Booking, command: BillDelivery, already_decided: bool) -> Reply:
    """Charge a retry at the price of now, or state an entry of 0 where credits do not cover it. A closed project is
    charged too, and neither the window nor the cost ceiling has a say. Raises Rejection where no attempt is named."""
    if not 0 < len(command.attempt_id) <= _CHARS_MAX:
        raise Rejection("invalid_request", f"An attempt's id has from 1 to {_CHARS_MAX} characters", "attempt_id")
    usage = delivery_of(command, booking.at_ms)
    if already_decided:
        left = available(booking.account, usage.environment)
        return Reply(200, "", "This attempt was billed before", 0, left, "", already_decided=True)
    fact_id, amount = charge_if_covered(booking, usage)
    return Reply(200, "", "", amount, available(booking.account, usage.environment), fact_id)


def delivery_of(command: BillDelivery, at_ms: int) -> Usage:
    """The use that a retry is, as of a time in Unix milliseconds."""
    return Usage(
        project=command.project,
        dedup_hash=delivery_hash(command),
        source=DELIVERY_SOURCE,
        event_id=command.attempt_id,
        operation=OPERATION,
        quantity=1,
        surcharge="",
        environment=command.environment or "production",
        occurred_at_ms=at_ms,
        job_id="",
        key_id="",
        metadata=note(endpoint_id=command.endpoint_id),
    )


def delivery_hash(command: BillDelivery) -> bytes:
    """The hash of the use that a retry is."""
    return dedup_hash(command.project, DELIVERY_SOURCE, command.attempt_id)
