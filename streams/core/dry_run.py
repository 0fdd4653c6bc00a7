"""Dry runs: what a command would do to an account now, decided by the command's own rule on a copy of the account."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

from schemas.accounts import Account
from schemas.commands import AnyCommand
from schemas.facts import Fact
from schemas.replies import Reply
from streams.core.booking import Booking
from streams.core.decisions import command_reply
from streams.core.ledger import settle
from streams.core.price_list import Prices


@dataclass(frozen=True, slots=True)
class DryRunOutcome:
    """The outcome of a dry run: the account as it is by now and as it would be, the facts and the reply of it."""

    before: Account
    after: Account
    facts: list[Fact]
    reply: Reply


def dry_run(account: Account, command: AnyCommand, partition: int, at_ms: int, prices: Prices) -> DryRunOutcome:
    """Decide a command on a copy of an account, as its owner would at `at_ms`. A refusal is the outcome's reply.

    What is due by then (a renewal, an expiry) is no part of the outcome: it comes in any case. Claims that others have
    made of the command's acts are not known here, so the owner may still refuse what is told to pass.
    """
    after = deepcopy(account)
    facts: list[Fact] = []
    booking = Booking(after, partition, account.last_offset + 1, 0, at_ms, facts, prices)
    settle(booking)
    before, already = deepcopy(after), len(facts)
    booking.actor = command.actor
    reply = command_reply(booking, command, False)
    return DryRunOutcome(before, after, facts[already:], reply)
