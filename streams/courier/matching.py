"""Matching: which endpoints hear of a notice, and what the facts about endpoints ask the courier to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

import msgspec

from schemas.accounts import Account, Endpoint
from schemas.courier import WantedReplay
from schemas.facts import Fact, entry_id
from schemas.notices import Notice
from streams.core.endpoints import PLATFORM_ID, hears_of
from streams.core.foreign import read

# A record of the journal without any of these words has nothing for the courier, and need not be taken apart.
WORDS: Final = (b"notice", b"price_book", b"expired", b"failed", b"top_up", b"plan", b"endpoint")
_NOTICE_ID: Final = re.compile(r"ntc-(\d{1,19})-\d{1,19}-\d{1,19}", re.ASCII)
_TESTING: Final = ("created", "tested")
# What was changed may be due at once.
WAKING: Final = ("changed", "resumed", "paused", "deleted", "disabled")
# What failed before counts no more.
FORGIVING: Final = ("resumed", "deleted", "disabled")


class _EndpointTerms(msgspec.Struct):
    """The metadata of a fact about an endpoint."""

    endpoint_id: str = ""
    notice_id: str = ""
    since_ms: int = 0
    only_failed: bool = False


_decode_terms = partial(read, msgspec.json.Decoder(_EndpointTerms).decode)


def may_tell(value: bytes) -> bool:
    """Whether a journal record may have a fact for the courier, by its bytes."""
    return any(word in value for word in WORDS)


def hearing(account: Account | None, notice: Notice) -> Iterator[Endpoint]:
    """The endpoints of an account that are to hear of a notice: those that there were when it was stated, that are not
    disabled, and ask for its type and environment. A paused one hears of it once it is resumed."""
    for endpoint in account.endpoints if account is not None else ():
        is_there = endpoint.state != "disabled" and endpoint.created_at_ms <= notice.at_ms
        if is_there and hears_of(endpoint, notice.type, notice.environment):
            yield endpoint


def endpoint_of(account: Account | None, endpoint_id: str) -> Endpoint | None:
    """The endpoint of an account with this id, or None where there is none any more."""
    return next((each for each in _endpoints(account) if each.id == endpoint_id), None)


def endpoint_named(fact: Fact) -> str:
    """The id of the endpoint that a fact about one names."""
    return _decode_terms(fact.metadata).endpoint_id


def tried_by(partition: int, fact: Fact) -> tuple[str, Notice] | None:
    """The endpoint that is to be tried out by a fact, and the test notice; None where the fact asks for none."""
    if fact.kind != "endpoint" or fact.reason not in _TESTING:
        return None
    notice_id = f"ntc-{entry_id(partition, fact.offset, fact.index)}"
    return endpoint_named(fact), Notice(
        notice_id, "webhook.test", fact.project, fact.environment, fact.booked_at_ms, "{}"
    )


def replay_of(fact: Fact, journal_offset: int) -> WantedReplay | None:
    """The replay that a fact in the journal record at this offset asks for, or None. One notice is looked for in the
    journal from where its id says that it stands."""
    if fact.kind != "endpoint" or fact.reason != "replayed":
        return None
    terms = _decode_terms(fact.metadata)
    return WantedReplay(
        fact.project, terms.endpoint_id, terms.since_ms, terms.only_failed, terms.notice_id, journal_offset
    )


def partition_of_notice(notice_id: str) -> int:
    """The journal partition of the fact that a notice's id names; -1 where it names none."""
    found = _NOTICE_ID.fullmatch(notice_id)
    return int(found[1]) if found else -1


def is_platforms(account: str) -> bool:
    """Whether an account is the platform's, whose endpoints hear of every project."""
    return account == PLATFORM_ID


def _endpoints(account: Account | None) -> Iterable[Endpoint]:
    return account.endpoints if account is not None else ()
