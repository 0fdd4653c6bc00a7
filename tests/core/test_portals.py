"""Portal links: each opens once and in time, for one session; all of a project's end together."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas.commands import CloseProject, EndPortals, OpenPortal, ReopenProject
from schemas.facts import Fact
from streams.core.portals import has_ended
from tests.core.builders import START_MS, addressed
from tests.core.test_past import Log

MINUTE_MS = 60_000


def opened(log: Log, link_id: str = "link-1", **changes: Any) -> str:
    """Open a link; gives the code that it is refused with, or ""."""
    fields = {"environment": "production", "session_id": "ses_1", "customer_sha256": "", "known_offset": log.offset}
    fields |= {"expires_at_ms": log.at_ms + MINUTE_MS} | changes
    return log.apply(OpenPortal(project="p1", actor="key_1", **fields, **addressed(f"c{log.offset}", link_id)))


def portals(log: Log) -> list[Fact]:
    return [fact for fact in log.facts if fact.kind == "portal"]


def test_a_link_opens_once_and_the_fact_says_who_made_it_and_whom_it_shows_by_a_hash() -> None:
    log = Log()
    assert opened(log, customer_sha256="c0ffee", environment="preview") == ""
    (fact,) = portals(log)
    assert (fact.reason, fact.key_id, fact.environment, fact.amount) == ("opened", "key_1", "preview", 0)
    said = {"link_id": "link-1", "session_id": "ses_1", "customer_sha256": "c0ffee"}
    assert msgspec.json.decode(fact.metadata) == said
    # Another session is other content under the same key, at whichever API, also after the kept reply has gone.
    for days, code in ((0, "idempotency_key_reused"), (2, "idempotency_reply_expired")):
        log.at_ms = START_MS + days * 86_400_000
        assert opened(log, session_id="ses_2") == code
    assert len(portals(log)) == 1


@pytest.mark.parametrize(("after_ms", "code"), [(MINUTE_MS - 1, ""), (MINUTE_MS, "portal_link_expired")])
def test_a_link_opens_until_its_end_by_the_time_of_the_record(after_ms: int, code: str) -> None:
    log = Log()
    ends_at_ms = log.at_ms + MINUTE_MS
    log.at_ms += after_ms
    assert opened(log, expires_at_ms=ends_at_ms) == code
    assert len(portals(log)) == (not code)


def test_a_link_without_an_id_would_open_again_and_again_so_it_opens_never() -> None:
    assert opened(Log(), link_id="") == "invalid_request"


def test_all_links_that_were_made_before_end_together_and_later_ones_open() -> None:
    log = Log()
    made_before, unopened = log.offset, log.offset
    assert opened(log, "link-1", known_offset=made_before) == ""
    assert not has_ended(log.account, made_before)
    assert log.do(EndPortals, reason="lost") == ""
    made_after = log.account.last_offset
    assert has_ended(log.account, made_before) and not has_ended(log.account, made_after)
    assert opened(log, "link-2", known_offset=unopened) == "portal_ended"
    assert opened(log, "link-3", known_offset=made_after) == ""
    assert [fact.reason for fact in portals(log)] == ["opened", "ended", "opened"]
    assert msgspec.json.decode(portals(log)[1].metadata) == {"reason": "lost"}


def test_a_closed_project_opens_none_and_can_still_end_them() -> None:
    log = Log()
    assert log.do(CloseProject, reason="") == ""
    assert opened(log) == "project_closed"
    assert log.do(EndPortals, reason="") == ""
    assert log.do(ReopenProject) == ""
    assert opened(log, "link-2") == ""
