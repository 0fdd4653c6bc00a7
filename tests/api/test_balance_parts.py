"""The parts of a balance add up: all that it lists sums to what it says is there, whatever an account has lived
through."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from api.cli.main import app
from api.stack import Stack
from api.views.accounts import balance_of
from schemas.accounts import Account, Grant
from schemas.commands import Correct, Envelope, GrantPromotional, Tick
from schemas.http.credits import BalanceAnswer
from streams.core.booking import parse_credits
from streams.core.grants import GRANT_KINDS
from streams.core.ledger import settled
from streams.kafka.codecs import encode_json
from tests.calls import Operator, eventually
from tests.core.builders import CREDIT, START_MS, addressed, usage
from tests.history.lives import DAY_MS, Life

ENVIRONMENTS = ("production", "preview")


def credits(text: str) -> int:
    return parse_credits(text, "")


def check_parts(balance: dict[str, Any], pages: list[dict[str, Any]]) -> None:
    """Check that each kind, as a sum and as the pages list it, adds up to what is available and held."""
    allowance = credits(balance["allowance"]["remaining"]) if balance["allowance"] else 0
    there = credits(balance["available"]) + credits(balance["held"])
    assert allowance + credits(balance["promotional_remaining"]) + credits(balance["top_ups_remaining"]) == there
    of_kinds = [balance["allowance"]["held"] if balance["allowance"] else "0"]
    of_kinds += [balance["promotional_held"], balance["top_ups_held"]]
    assert sum(map(credits, of_kinds)) == credits(balance["held"])
    for kind in ("promotional", "top_ups"):
        listed = [each for page in pages for each in page[kind]]
        assert len({each["grant_id"] for each in listed}) == len(listed) == balance[f"{kind}_count"]
        assert sum(credits(each["remaining"]) for each in listed) == credits(balance[f"{kind}_remaining"])
        for each in listed:
            assert credits(each["remaining"]) <= credits(each["granted"])
    if balance["allowance"]:
        assert allowance <= credits(balance["allowance"]["granted"])


def shown(answer: BalanceAnswer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode_json(answer))
    return found


def check_account(account: Account, at_ms: int, limit: int) -> list[dict[str, Any]]:
    """Check the parts of each environment, and give its balances."""
    balances = []
    for environment in ENVIRONMENTS:
        whole = shown(balance_of(account, environment, at_ms, 0))
        pages, cursor = [], None
        while not pages or cursor is not None:
            page = shown(balance_of(account, environment, at_ms, 0, limit, cursor))
            assert len(page["promotional"]) + len(page["top_ups"]) <= limit
            pages.append(page)
            cursor = page["next_cursor"]
        check_parts(whole, pages)
        ends = [each["expires_at"] for page in pages for each in page["promotional"]]
        assert ends == sorted(ends)
        balances.append(whole)
    return balances


@pytest.mark.parametrize("seed", range(8))
def test_they_add_up_at_every_time_of_any_life(seed: int) -> None:
    life = Life(seed)
    life.live(300)
    listed = set[str]()
    for at_ms, _ in life.states:
        for later_ms in (0, 1, DAY_MS, 40 * DAY_MS):
            account = settled(life.state_at(at_ms), at_ms + later_ms, life.prices)
            for balance in check_account(account, at_ms + later_ms, 1 + seed):
                listed |= {name for name in ("allowance", "promotional", "top_ups") if balance[name]}
    assert listed == {"allowance", "promotional", "top_ups"}


@pytest.mark.parametrize("kind", GRANT_KINDS)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("has_ended", [False, True])
def test_every_kind_of_grant_is_listed(kind: str, environment: str, has_ended: bool) -> None:
    """Also one that has ended, of which a job holds credits."""
    account = Life(1, recurring=False).account
    ends_at_ms = START_MS + (-1 if has_ended else DAY_MS)
    account.grants = [Grant(f"{kind}-1-0", kind, environment, 9 * CREDIT, 5 * CREDIT, START_MS - DAY_MS, ends_at_ms)]
    account.grants[0].held = 5 * CREDIT if has_ended else 2 * CREDIT
    for balance in check_account(account, START_MS, 1):
        has = [balance["allowance"], balance["promotional"], balance["top_ups"]]
        is_here = balance["environment"] == environment
        assert [bool(each) for each in has] == [is_here and each == kind for each in GRANT_KINDS]


def test_a_voided_charge_of_an_expired_month_is_listed() -> None:
    life = Life(1, recurring=False)
    life.apply(Envelope([usage("e1", operation="website", occurred_at_ms=START_MS)]))
    life.at_ms = life.account.renews_at_ms + DAY_MS
    life.apply(Tick(["p1"]))
    back = life.charged_for("e1")
    void = {"source": "/test", "event_id": "e1", "sequence": 0, "usage": None, "metadata": ""}
    life.apply(Correct(project="p1", given_back=back, **void, **addressed("void")))
    balance = check_account(life.account, life.at_ms, 100)[0]
    (promotional,) = balance["promotional"]
    assert (promotional["remaining"], balance["promotional_remaining"]) == ("240", "240")
    assert credits(balance["available"]) == life.account.allowance + 240 * CREDIT
    assert promotional["expires_at"] == balance["allowance"]["renews_at"]


def test_a_cursor_of_a_page_goes_on_after_grants_that_have_ended_meanwhile() -> None:
    life = Life(1, recurring=False)
    for number in range(4):
        terms = {
            "environment": "preview",
            "amount": CREDIT,
            "reason": "x",
            "expires_at_ms": life.at_ms + 1_000 + number,
        }
        life.apply(GrantPromotional(project="p1", **terms, **addressed(f"g{number}")))
    first = balance_of(life.account, "preview", life.at_ms, 0, 2)
    later = settled(msgspec.convert(msgspec.to_builtins(life.account), Account), life.at_ms + 1_002, life.prices)
    rest = balance_of(later, "preview", life.at_ms + 1_002, 0, 2, first.next_cursor)
    names = [each.grant_id for each in [*first.promotional, *rest.promotional]]
    assert len(names) == 3 and rest.next_cursor is None


def test_the_service_and_the_command_list_them_alike(
    operator: Operator, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))
    project, client = operator.customer("free")
    url = f"/v1/admin/projects/{project}"
    for environment in ENVIRONMENTS:
        for number, days in enumerate((9, 2)):
            ends_at = (datetime.now(UTC) + timedelta(days=days)).isoformat()
            given = {"amount": f"{10 + number}.5", "reason": "sorry", "expires_at": ends_at, "environment": environment}
            assert operator.http.post(f"{url}/grants", json=given).status_code == 201
        bought = {"bundle_usd": 20, "environment": environment}
        assert operator.http.post(f"{url}/top-ups", json=bought).status_code == 201
    for operation in ("blog_post", "website"):
        body = {"operation": operation, "job_id": operation, "hold": operation == "website"}
        assert client.post("/v1/admissions", json=body).status_code == 200
    for environment in ENVIRONMENTS:
        params = {"project": project, "environment": environment}
        balance = operator.http.get("/v1/balance", params=params).json()
        check_parts(balance, [balance])
        assert [each["remaining"] for each in balance["promotional"]] == ["11.5", "10.5"], "the earliest end first"
        argv = ["credits", "balance", project, "--environment", environment, "--json"]
        printed = json.loads(CliRunner().invoke(app, argv, catch_exceptions=False).stdout)
        # They were asked one after the other, and an end at this pace counts from then.
        for name in ("as_of", "lag_ms", "offset", "empty_at"):
            printed.pop(name), balance.pop(name)
        assert printed == balance
        words = CliRunner().invoke(app, argv[:-1], catch_exceptions=False).stdout
        assert "promotional_remaining: 22" in words
    before = operator.http.get("/v1/balance", params={"project": project}).json()
    at = before["as_of"]

    def past() -> dict[str, Any]:
        found: dict[str, Any] = operator.http.get("/v1/balance", params={"project": project, "at": at}).json()
        return found

    later = eventually(past)
    check_parts(later, [later])
    assert later["promotional"] == before["promotional"]
