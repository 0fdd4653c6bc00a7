"""A charge is what an admitted request costs, as far as the service behind a gateway may say."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from msgspec import Meta

from streams.client.admissions import Decision, Details
from streams.client.amounts import Credits, credits_of, microcredits_of
from streams.client.arguments import REASON_CHARS_MAX, ArgumentError, check
from streams.client.away_journal import Outcome


@dataclass(slots=True)
class Charge:
    """The charge of an admitted request, in `scope["meterline"]`. With `is_leased`, Meterline is away, and the gateway
    itself admitted the request (see `streams.client.away`). `decision.already_decided` tells a repeat that found the
    hold of a job that goes on. `quantity` is how many units were asked for. What the service tells a Charge is done
    once the request has been answered, whatever its status."""

    decision: Decision
    is_held: bool
    is_leased: bool = False
    quantity: int = 1
    outcome: Outcome | None = None
    credits: Decimal | None = None
    reason: str = ""

    def capture(self, credits: Credits | None = None, *, quantity: int | None = None) -> None:
        """Charge the held credits: all; or so many `credits` of them, Decimal("1.5") or "1.5"; or those of `quantity`
        units, from 0 on, at the price at which they are held.

        Raises TypeError for credits as an int or a float, and ValueError where fewer are held, for both at once, and
        for what is no amount.
        """
        if credits is not None and quantity is not None:
            raise ArgumentError("quantity", "`credits` are given as well; give one of them")
        if quantity is not None:
            credits = self._credits_of(quantity)
        amount = None if credits is None else credits_of(microcredits_of(credits, "credits"))
        if amount is not None:
            # The credits of a hold that was found, and not placed now, are not known here.
            is_known = not self.decision.already_decided
            if not self.is_held or (is_known and amount > self.decision.credits):
                held = f" ({self.decision.credits} are)" if self.is_held else ""
                raise ValueError(f"credits: {amount} are not held{held}")
        self.outcome, self.credits = "capture", amount

    def release(self, reason: str) -> None:
        """Charge nothing. Raises ValueError where the request was charged at once, without a hold."""
        check("reason", reason, str)
        if not self.is_held:
            raise ValueError("It was charged at once: there is nothing to release")
        self.outcome, self.reason = "release", reason[:REASON_CHARS_MAX]

    def keep(self) -> None:
        """Leave the hold open for whoever ends the job: by `decision.hold_id`, or, if the request is leased, by the
        job's id."""
        self.outcome = "keep"

    def _credits_of(self, quantity: int) -> Decimal:
        """The credits of so many of the units that credits are held for. Raises ArgumentError."""
        check("quantity", quantity, Annotated[int, Meta(ge=0)])
        if not self.is_held or self.decision.already_decided:
            why = "a repeat found this hold, and its price is not known here" if self.is_held else "nothing is held"
            raise ArgumentError("quantity", f"{why}; capture in credits, or all")
        if quantity > self.quantity:
            raise ArgumentError("quantity", f"{quantity} are more than credits are held for ({self.quantity})")
        # The price of a unit as often as was asked for is what is held, so nothing remains.
        return credits_of(microcredits_of(self.decision.credits, "credits") // self.quantity * quantity)


def quantity_of(details: Details) -> int:
    """The units that a request asks for, by whichever of its details counts them."""
    return details.get("quantity") or details.get("target_languages") or details.get("attempts") or 1
