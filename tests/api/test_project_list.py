"""The list of projects: what a question fits, each project once, in pages that end by their time too."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from api.cli.main import app
from api.stack import Stack
from api.views.project_list import ProjectQuestion, project_page
from schemas.accounts import Account
from schemas.commands import ChangePlan, GrantPromotional
from streams.core.booking import available
from streams.core.price_list import Prices
from streams.kafka.codecs import encode_account
from tests.calls import Operator
from tests.core.builders import CREDIT, START_MS
from tests.core.test_ledger import Bench

URL = "/v1/admin/projects"


def account_of(number: int, is_closed: bool, spent: int, plan: str) -> Account:
    bench = Bench(plan)
    if spent:
        bench.charge("chat.message", spent)
    account = bench.account
    account.project, account.name = f"p{number:03}", f"Straße {number % 7}"
    account.closed_at_ms = START_MS if is_closed else 0
    return account


accounts = st.lists(st.tuples(st.booleans(), st.integers(0, 250), st.sampled_from(("free", "hobby"))), max_size=30).map(
    lambda made: [account_of(number, *each) for number, each in enumerate(made)]
)
questions = st.builds(
    ProjectQuestion,
    search=st.sampled_from((None, "p00", "P01", "STRASSE 3", "straße", "x")),
    plan=st.sampled_from((None, "free", "hobby", "scale")),
    is_closed=st.sampled_from((None, True, False)),
    balance_below=st.sampled_from((None, 0, 1, 100 * CREDIT, 251 * CREDIT)),
)


def fits(account: Account, question: ProjectQuestion) -> bool:
    named = f"{account.project}\n{account.name}".casefold()
    return (
        (question.search or "").casefold() in named
        and question.plan in (None, account.plan)
        and question.is_closed in (None, account.closed_at_ms > 0)
        and (question.balance_below is None or available(account, "production") < question.balance_below)
    )


@given(accounts, questions, st.integers(1, 7), st.sampled_from((0.0, 60.0)))
def test_pages_have_each_project_that_fits_once_and_no_other(
    kept: list[Account], question: ProjectQuestion, limit: int, seconds: float
) -> None:
    stored = [(each.project.encode(), encode_account(each)) for each in kept]
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        behind = iter([each for each in stored if each[0] > cursor.encode()])
        page, cursor = project_page(behind, question, Prices(), START_MS, limit, seconds)
        assert len(page) <= limit
        found += [each.project for each in page]
    assert found == [each.project for each in kept if fits(each, question)]


def test_a_page_ends_when_its_time_is_up_and_the_next_goes_on_there() -> None:
    looked_at = 0

    def stored() -> Iterator[tuple[bytes, bytes]]:
        nonlocal looked_at
        value = encode_account(account_of(0, False, 0, "free"))
        while True:
            looked_at += 1
            yield f"p{looked_at:09}".encode(), value

    page, cursor = project_page(stored(), ProjectQuestion(search="nobody"), Prices(), START_MS, 10, 0.05)
    assert page == []
    assert cursor == f"p{looked_at - 1:09}"


def test_what_is_due_counts_before_it_is_booked() -> None:
    bench = Bench("hobby")
    bench.do(ChangePlan, plan="free", contract_allowance=0)
    ends_at_ms = START_MS + 1_000
    terms = {"amount": 7 * CREDIT, "expires_at_ms": ends_at_ms, "reason": "sorry"}
    bench.do(GrantPromotional, environment="production", **terms)
    stored = [(b"p1", encode_account(bench.account))]

    def found(at_ms: int, question: ProjectQuestion) -> list[tuple[str, str]]:
        page, _ = project_page(iter(stored), question, Prices(), at_ms, 10)
        return [(each.plan, each.available) for each in page]

    assert found(ends_at_ms - 1, ProjectQuestion(plan="hobby")) == [("hobby", "5007")]
    assert found(ends_at_ms, ProjectQuestion(balance_below=5_001 * CREDIT)) == [("hobby", "5000")]
    assert found(bench.account.renews_at_ms, ProjectQuestion(plan="free")) == [("free", "250")]
    assert found(bench.account.renews_at_ms, ProjectQuestion(plan="hobby")) == []


def test_an_account_that_cannot_be_read_is_passed_over() -> None:
    sound = encode_account(account_of(1, False, 0, "free"))
    stored = [(b"p000", sound[:-9]), (b"p001", sound), (b"p002", b"\x00" * 12)]
    page, cursor = project_page(iter(stored), ProjectQuestion(), Prices(), START_MS, 10)
    assert ([each.project for each in page], cursor) == (["p001"], None)


@pytest.fixture(scope="module")
def three(operator: Operator) -> tuple[str, list[str]]:
    """Three projects with a word in their names that no other has: free, hobby and spent, and closed."""
    word = secrets.token_hex(6)
    names = [operator.project(plan, name=f"{word.upper()} & Co") for plan in ("free", "hobby", "free")]
    use = {"project": names[1], "operation": "image", "quantity": 3}
    operator.lift_limits(names[1])
    assert operator.http.post("/v1/admissions", json=use).status_code == 200
    assert operator.http.put(f"{URL}/{names[2]}/state", json={"closed": True}).is_success
    # A list reads a copy as it is; a balance waits until that has what was decided on its project.
    balance = operator.http.get("/v1/balance", params={"project": names[1]}).json()
    assert balance["available"] == "4904"
    return word, names


@pytest.mark.parametrize(
    ("asked", "which"),
    [
        ({}, [0, 1, 2]),
        ({"plan": "hobby"}, [1]),
        ({"plan": "scale"}, []),
        ({"state": "open"}, [0, 1]),
        ({"state": "closed"}, [2]),
        ({"balance_below": "4904.000001"}, [0, 1, 2]),
        ({"balance_below": "4904"}, [0, 2]),
        ({"balance_below": "250"}, []),
        ({"plan": "free", "state": "open", "balance_below": "251"}, [0]),
    ],
)
def test_projects_are_found_by_name_plan_state_and_balance(
    operator: Operator, three: tuple[str, list[str]], asked: dict[str, str], which: list[int]
) -> None:
    word, names = three
    page = operator.http.get(URL, params={"search": word, **asked}).json()
    assert [each["project"] for each in page["projects"]] == sorted(names[number] for number in which)
    assert page["next_cursor"] is None


def test_a_list_says_of_a_project_what_its_own_page_says(operator: Operator, three: tuple[str, list[str]]) -> None:
    word, names = three
    ends_at = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    given = {"amount": "7", "reason": "sorry", "expires_at": ends_at, "environment": "preview"}
    assert operator.http.post(f"{URL}/{names[0]}/grants", json=given).status_code == 201
    for shown in operator.http.get(URL, params={"search": word}).json()["projects"]:
        project = shown["project"]
        info = operator.http.get(f"{URL}/{project}").json()
        for name in ("name", "plan", "closed_at", "billing_account", "signed_up_at", "renews_at"):
            assert shown[name] == info[name]
        assert (shown["state"] == "closed") == (info["closed_at"] is not None)
        balances = [
            operator.http.get("/v1/balance", params={"project": project, "environment": each}).json()
            for each in ("production", "preview")
        ]
        assert (shown["available"], shown["held"]) == (balances[0]["available"], balances[0]["held"])
        assert shown["preview_available"] == balances[1]["available"]


def test_pages_go_on_behind_each_other(operator: Operator, three: tuple[str, list[str]]) -> None:
    word, names = three
    found, cursor = [], None
    while True:
        asked = {"search": word, "limit": 1} | ({"cursor": cursor} if cursor else {})
        page = operator.http.get(URL, params=asked).json()
        found += [each["project"] for each in page["projects"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert found == sorted(names)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"state": "ajar"}, "query.state"),
        ({"plan": "gold"}, "query.plan"),
        ({"balance_below": "-1"}, "balance_below"),
        ({"balance_below": "1.0000001"}, "balance_below"),
        ({"search": ""}, "query.search"),
        ({"limit": "1001"}, "query.limit"),
        ({"query": "x"}, "query"),
    ],
)
def test_a_filter_that_is_none_is_refused_by_name(operator: Operator, asked: dict[str, str], field: str) -> None:
    problem = operator.http.get(URL, params=asked).json()
    assert (problem["status"], problem["field"]) == (422, field)


def test_the_command_prints_a_table_or_json(
    operator: Operator, three: tuple[str, list[str]], stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))
    word, names = three

    def run(*more: str) -> Any:
        done = CliRunner().invoke(app, ["projects", "list", "--search", word, *more], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done

    heading, *rows = run().stdout.splitlines()
    assert heading.split()[:5] == ["project", "name", "plan", "state", "available"]
    assert [row.split()[0] for row in rows] == sorted(names)
    page = json.loads(run("--json", "--state", "open", "--plan", "hobby", "--balance-below", "5000").stdout)
    assert ([each["project"] for each in page["projects"]], page["next_cursor"]) == ([names[1]], None)
    first = run("--limit", "1")
    assert first.stdout.splitlines()[1].split()[0] == sorted(names)[0]
    cursor = json.loads(run("--limit", "1", "--json").stdout)["next_cursor"]
    rest = json.loads(run("--cursor", cursor, "--json").stdout)
    assert [each["project"] for each in rest["projects"]] == sorted(names)[1:]
