"""The list of projects: those that a question fits, by id, found in this process's copy of the accounts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from schemas.accounts import Account
from schemas.http.projects import ProjectSummary
from schemas.problems import Rejection
from schemas.times import utc
from streams.core.booking import available, format_credits, held
from streams.core.foreign import UnreadableError, read
from streams.core.ledger import settled
from streams.core.price_list import Prices
from streams.kafka.codecs import account_body
from streams.state.accounts_view import decoded_account

log = logging.getLogger(__name__)

# A question that fits few of a million projects gives what it has found by then, and a cursor to go on from.
SEARCH_SECONDS_MAX = 0.5
# After so many accounts, about a millisecond, all else in the process has its turn.
_ACCOUNTS_A_TURN = 100
_TURN_SECONDS = 0.0002


class _Head(msgspec.Struct, array_like=True):
    """An account as a search reads it: what it does not ask about is not decoded."""

    project: str
    name: str
    plan: str
    allowance: msgspec.Raw
    signed_up_at_ms: msgspec.Raw
    renews_at_ms: msgspec.Raw
    grants: msgspec.Raw
    keys: msgspec.Raw
    opened_offset: msgspec.Raw
    last_offset: msgspec.Raw
    last_at_ms: msgspec.Raw
    next_plan: str = ""
    next_allowance: msgspec.Raw = msgspec.Raw()
    is_in_good_standing: msgspec.Raw = msgspec.Raw()
    closed_at_ms: int = 0


_decode_head = msgspec.msgpack.Decoder(_Head).decode


@dataclass(frozen=True, slots=True)
class ProjectQuestion:
    """A question for projects: with `search` in the id or the name, in whatever case, on a plan, open or closed, and
    with less than `balance_below` microcredits to spend in production. None asks for nothing."""

    search: str | None = None
    plan: str | None = None
    is_closed: bool | None = None
    balance_below: int | None = None

    def may_fit(self, head: _Head) -> bool:
        """Whether a project fits, as far as the head of its account tells. A plan may be due to change."""
        return (
            (self.search is None or _has(self.search, head.project, head.name))
            and (self.plan is None or self.plan in (head.plan, head.next_plan))
            and (self.is_closed is None or self.is_closed == bool(head.closed_at_ms))
        )

    def fits(self, account: Account) -> bool:
        """Whether the project of an account as of now fits, where `may_fit` says that it may."""
        return (self.plan is None or self.plan == account.plan) and (
            self.balance_below is None or available(account, "production") < self.balance_below
        )


def project_page(
    values: Iterator[tuple[bytes, bytes]],
    question: ProjectQuestion,
    prices: Prices,
    now_ms: int,
    limit: int,
    seconds_max: float = SEARCH_SECONDS_MAX,
) -> tuple[list[ProjectSummary], str | None]:
    """The projects that a question fits among stored accounts, at most `limit`, and the id to go on behind, or None
    where nothing is left to look at. A page that took `seconds_max` ends there, with fewer or none."""
    found: list[ProjectSummary] = []
    deadline = time.monotonic() + seconds_max
    for number, (key, value) in enumerate(values, 1):
        if (account := _fitting(key, value, question, prices, now_ms)) is not None:
            found.append(_summary(account))
        if not number % _ACCOUNTS_A_TURN:
            # This is a thread, but the event loop can't run while it does.
            time.sleep(_TURN_SECONDS)
        is_over = len(found) >= limit or (not number % _ACCOUNTS_A_TURN and time.monotonic() >= deadline)
        if is_over:
            return found, key.decode() if next(values, None) is not None else None
    return found, None


def _fitting(key: bytes, value: bytes, question: ProjectQuestion, prices: Prices, now_ms: int) -> Account | None:
    """The account as of now, where the question fits it; None where it does not, or can't be read."""
    try:
        if not question.may_fit(read(_decode_head, account_body(value))):
            return None
        account = settled(decoded_account(value), now_ms, prices)
    except (UnreadableError, Rejection) as error:
        log.error("account %r is passed over: %s", key, error)
        return None
    return account if question.fits(account) else None


def _has(search: str, *texts: str) -> bool:
    return any(search.casefold() in text.casefold() for text in texts)


def _summary(account: Account) -> ProjectSummary:
    return ProjectSummary(
        project=account.project,
        name=account.name,
        plan=account.plan,
        state="closed" if account.closed_at_ms else "open",
        closed_at=utc(account.closed_at_ms) if account.closed_at_ms else None,
        billing_account=account.billing_account or None,
        available=format_credits(available(account, "production")),
        held=format_credits(held(account, "production")),
        preview_available=format_credits(available(account, "preview")),
        signed_up_at=utc(account.signed_up_at_ms),
        renews_at=utc(account.renews_at_ms),
    )
