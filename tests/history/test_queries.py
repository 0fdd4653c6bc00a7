"""The queries for analysts give known answers, on the real engine with a small history."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import msgspec
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from schemas.prices import MICROCREDITS_PER_CREDIT
from streams.clickhouse.client import ClickHouse, Pack
from streams.clickhouse.historian import Sink, dead_letter_sink, journal_sink
from streams.clickhouse.migrations import migrate
from streams.core.booking import FACTS_PER_SLOT
from streams.embedded.clickhouse_front import create_front
from streams.settings import PROJECT_ROOT, Settings
from tests.engine import Serve

# What the queries take; the two that say what a week burns have other days.
ASKED = {"days": 30, "tz": "UTC"}
DAYS = {"audit_key_use_by_hour": 7, "burn_rate": 7, "runs_dry_this_week": 7}
# Queries that read rows, and why no projection could serve them.
READ_ROWS = {
    "audit_key_use_by_hour": "by key, and the facts of one request together",
    "balance_of_every_project": "what each newest entry states",
    "burn_rate": "what each newest entry states",
    "dead_letters_by_code": "dead letters are few",
    "dead_letters_by_source": "dead letters are few",
    "duplicates_by_source": "by event",
    "late_events_by_source": "by producer, and when each event occurred",
    "ledger_of_a_project": "entries themselves, of one project",
    "limits_that_would_have_refused": "by key, since an offset",
    "revenue_by_month": "by invoice; what is due in money is few facts",
    "runs_dry_this_week": "what each newest entry states",
    "usage_by_customer": "by customer: one is a promoted key, and too many for sums",
}

QUERIES = sorted((PROJECT_ROOT / "clickhouse" / "queries").glob("*.sql"))
NOW = datetime.now(UTC)

Row = dict[str, Any]


def microcredits(credits: str) -> int:
    return int(Decimal(credits) * MICROCREDITS_PER_CREDIT)


def fact(
    ago: timedelta,
    partition: int,
    offset: int,
    position: int,
    kind: str,
    project: str,
    amount: str = "0",
    balance: str = "0",
    **more: Any,
) -> Row:
    """A row of `facts` as the historian writes it, booked `ago` before now; amounts are given in credits."""
    at_ms = round((NOW - ago).timestamp() * 1000)
    more.setdefault("environment", "production")
    return {
        "partition": partition,
        "offset": offset,
        "position": position,
        "journal_offset": offset,
        "kind": kind,
        "project": project,
        "amount": microcredits(amount),
        "balance": microcredits(balance),
        "source": "/gateway",
        "event_id": f"e{offset}-{position // FACTS_PER_SLOT}",
        "occurred_at": at_ms,
        "booked_at": at_ms,
        **more,
    }


def charge(ago: timedelta, partition: int, offset: int, position: int, project: str, line: str, **more: Any) -> Row:
    """A row of `facts` for a charge; `line` is "operation × quantity amount balance"."""
    operation, _, quantity, amount, balance = line.split()
    if customer := more.pop("customer", ""):
        more["metadata"] = f'{{"customer_id":"{customer}"}}'
    return fact(
        ago,
        partition,
        offset,
        position,
        "charge",
        project,
        amount,
        balance,
        operation=operation,
        quantity=int(quantity),
        **more,
    )


def trials() -> list[Row]:
    """The facts of a project with limits on trial."""
    day, hour = timedelta(days=1), timedelta(hours=1)
    refused_calls: Row = {"operation": "GET *", "key_id": "k1", "source": ""}
    return [
        # Limits on trial are tried and ended, then tried again; of the counted calls one is too many for the trial.
        fact(9 * day, 3, 1, 0, "limits", "tried", environment="", reason="shadow", metadata='{"burst":1}', key_id="op"),
        fact(9 * day, 3, 2, 0, "request", "tried", operation="GET /v1/old", key_id="k1", source=""),
        fact(
            9 * day,
            3,
            2,
            1,
            "shadow",
            "tried",
            operation="GET /v1/old",
            key_id="k1",
            source="",
            reason="rate_limited",
            quantity=1,
        ),
        fact(8 * day, 3, 3, 0, "limits", "tried", environment="", reason="shadow", metadata='{"reason":"enough"}'),
        fact(7 * day - hour, 3, 4, 0, "limits", "tried", environment="", reason="shadow", metadata='{"burst":2}'),
        fact(2 * day, 3, 5, 0, "request", "tried", operation="GET /v1/balance", key_id="k1", source=""),
        fact(2 * day, 3, 6, 0, "request", "tried", operation="GET /v1/balance", key_id="k1", source=""),
        fact(
            2 * day,
            3,
            6,
            1,
            "shadow",
            "tried",
            operation="GET /v1/balance",
            key_id="k1",
            source="",
            reason="rate_limited",
            quantity=1,
        ),
        fact(2 * day, 3, 7, 0, "hold", "tried", operation="website", key_id="k2", held=240),
        fact(2 * day, 3, 7, 1, "hold", "tried", operation="website", key_id="k2", held=240),
        fact(2 * day, 3, 7, 2, "shadow", "tried", operation="website", key_id="k2", reason="over_cost_ceiling"),
        fact(2 * day, 3, 9, 0, "request", "tried", operation="GET /v1/balance", key_id="k1", source=""),
        fact(2 * day, 3, 10, 0, "request", "tried", operation="GET /v1/balance", key_id="k1", source=""),
        # An API process refused 40 calls by itself; the trial would have refused 38 of them.
        fact(2 * day, 3, 13, 0, "refusal", "tried", reason="limited_at_edge", quantity=40, **refused_calls),
        fact(2 * day, 3, 13, 1, "shadow", "tried", reason="rate_limited", quantity=38, **refused_calls),
    ]


def history() -> list[Row]:
    day, hour = timedelta(days=1), timedelta(hours=1)
    blog_post: Row = {"operation": "blog_post", "quantity": 1, "balance": "10.94"}
    return [
        # Older than every window.
        fact(40 * day, 1, 10, 0, "project", "acme", reason="hobby"),
        fact(40 * day, 1, 10, 2, "subscription", "acme", environment="", reason="hobby", cents=25_00),
        fact(40 * day, 1, 10, 1, "grant", "acme", "100", "100", reason="allowance"),
        charge(35 * day, 1, 11, 0, "acme", "image × 1 -32 68", customer="c1"),
        fact(31 * day, 1, 12, 0, "refusal", "acme", **blog_post, reason="out_of_credits"),
        # An event of two lines.
        charge(3 * day, 1, 20, 0, "acme", "social_post.text × 1 -5 63", customer="c1"),
        charge(3 * day, 1, 20, 1, "acme", "social_post.image × 1 -32 31", customer="c1"),
        fact(2 * day, 1, 21, 0, "grant", "acme", "40", "71", reason="top_up", cents=20, billing_account="agency"),
        # A line that two grants pay, and another event of the same record.
        charge(1 * day, 1, 22, 0, "acme", "blog_post × 1 -31 40", customer="c2"),
        charge(1 * day, 1, 22, 1, "acme", "blog_post × 0 -29 11", customer="c2"),
        charge(1 * day, 1, 22, FACTS_PER_SLOT, "acme", "webhook.delivery × 3 -0.06 10.94", customer="c2"),
        # An event that is refused, tried again, and refused again; and one that needs a higher plan.
        fact(5 * hour, 1, 23, 0, "refusal", "acme", **blog_post, reason="out_of_credits", event_id="wanted"),
        fact(4 * hour, 1, 24, 0, "refusal", "acme", **blog_post, reason="out_of_credits", event_id="wanted"),
        fact(3 * hour, 1, 25, 0, "refusal", "acme", operation="video.premium", quantity=1, reason="plan_required"),
        fact(2 * hour, 1, 26, 0, "duplicate", "acme", balance="10.94", operation="blog_post", event_id="e22-0"),
        fact(2 * hour, 1, 27, 0, "duplicate", "acme", balance="10.94", operation="blog_post", event_id="e22-0"),
        # The preview environment has a budget of its own, which was charged more than 7 days ago.
        fact(10 * day, 1, 18, 0, "grant", "acme", "4000", "4000", environment="preview", reason="top_up"),
        charge(8 * day, 1, 19, 0, "acme", "chat.message × 1 -1 3999", environment="preview", source="/preview"),
        # A renewal: what is left expires, and the next allowance is granted.
        fact(6 * day, 2, 5, 0, "grant", "beta", "250", "250", reason="allowance"),
        charge(2 * day, 2, 6, 0, "beta", "chat.message × 70 -70 180"),
        fact(1 * hour, 2, 7, 0, "expiry", "beta", "-180", "0", reason="allowance"),
        fact(1 * hour, 2, 7, 1, "grant", "beta", "250", "250", reason="allowance"),
        charge(1 * hour, 2, 7, 2, "beta", "read × 1 0 250"),
        *trials(),
        # A project that uses only what costs nothing.
        fact(5 * day, 0, 1, 0, "grant", "idle", "250", "250", reason="allowance"),
        charge(2 * hour, 0, 2, 0, "idle", "read × 1 0 250"),
    ]


def dead_letters() -> list[Row]:
    def letter(days: int, journal_offset: int, offset: int, code: str, field: str = "", position: int = 0) -> Row:
        at_ms = round((NOW - timedelta(days=days)).timestamp() * 1000)
        return {
            "journal_partition": 0,
            "journal_offset": journal_offset,
            "code": code,
            "detail": f"detail {journal_offset}",
            "field": field,
            "topic": "meterline.usage",
            "partition": 3,
            "offset": offset,
            "position": position,
            "received_at": at_ms,
            "event": "{}",
        }

    return [
        letter(31, 0, 1, "malformed_json"),
        letter(5, 1, 2, "malformed_json"),
        letter(4, 2, 3, "unknown_operation", "data.operation"),
        letter(3, 3, 3, "unknown_operation", "data.operation", position=1),
        # A crash repeated this dead letter.
        letter(3, 4, 3, "unknown_operation", "data.operation", position=1),
    ]


@pytest.fixture
def filled(embedded: ClickHouse) -> ClickHouse:
    """The engine with the schema, the history and the dead letters above."""
    migrate(embedded)
    insert(embedded, journal_sink(Settings()), history())
    insert(embedded, dead_letter_sink(Settings()), dead_letters())
    return embedded


def insert(clickhouse: ClickHouse, sink: Sink, rows: Sequence[Row]) -> None:
    packs = []
    for row in rows:
        values = [row.get(name, "" if kind == "String" else 0) for name, kind in sink.columns.items()]
        packs.append(Pack(tuple(row[name] for name in sink.shared), msgspec.msgpack.encode([values]), 1))
    clickhouse.insert_packs(sink.table, sink.shared, sink.columns, packs, partitions_max=3)


def asked(path: Path) -> dict[str, Any]:
    return {name: value for name, value in _asked(path).items() if f"{{{name}:" in path.read_text()}


def _asked(path: Path) -> dict[str, Any]:
    return ASKED | {"days": DAYS.get(path.stem, ASKED["days"])}


def ask(clickhouse: ClickHouse, name: str, columns: str, **other: Any) -> list[tuple[Any, ...]]:
    """The rows that a query file gives, with only these columns, in the query's order."""
    path = PROJECT_ROOT / "clickhouse" / "queries" / f"{name}.sql"
    rows: Sequence[Sequence[Any]] = clickhouse.query(
        f"SELECT {columns} FROM (\n{path.read_text()}\n)", asked(path) | other
    )
    return [tuple(row) for row in rows]


def test_there_are_queries() -> None:
    assert len(QUERIES) >= 10


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_a_query_says_what_it_answers_and_runs_as_it_is(filled: ClickHouse, path: Path) -> None:
    sql = path.read_text()
    assert sql.startswith("-- ") and "?" in sql.partition("SELECT")[0]
    assert filled.query(sql, asked(path))


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_a_query_shows_credits_as_exact_decimals(filled: ClickHouse, path: Path) -> None:
    columns = filled.query(f"DESCRIBE TABLE (\n{path.read_text()}\n)", asked(path))
    types = {name: kind for name, kind, *_ in columns}
    assert all(kind.startswith("Decimal(38, 6)") for name, kind in types.items() if "credits" in name)
    assert [name for name, kind in types.items() if "Float" in kind and name != "share_percent"] == []


def test_every_query_runs_through_the_http_front_as_curl_sends_it(filled: ClickHouse, serve: Serve) -> None:
    url = serve(create_front(filled))
    for path in QUERIES:
        named = {f"param_{name}": value for name, value in asked(path).items()}
        answer = httpx.post(url, content=path.read_bytes(), params={"default_format": "CSVWithNames"} | named)
        assert answer.status_code == 200, f"{path.name}: {answer.text}"
        assert len(answer.text.splitlines()) == len(filled.query(path.read_text(), asked(path))) + 1, path.name


def test_every_query_runs_on_an_empty_history(embedded: ClickHouse) -> None:
    migrate(embedded)
    for path in QUERIES:
        assert list(embedded.query(path.read_text(), asked(path))) == [], path.name


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_a_query_is_served_by_a_projection_or_says_why_not(filled: ClickHouse, path: Path) -> None:
    question = f"{path.read_text()}\nSETTINGS force_optimize_projection = 1"
    if path.stem in READ_ROWS:
        with pytest.raises(DatabaseError, match="No projection is used"):
            filled.query(question, asked(path))
    else:
        assert filled.query(question, asked(path)) == filled.query(path.read_text(), asked(path))


def test_usage_by_customer(filled: ClickHouse) -> None:
    assert ask(filled, "usage_by_customer", "*") == [
        ("acme", "", "chat.message", 1, 1, Decimal("1")),
        ("acme", "c1", "social_post.image", 1, 1, Decimal("32")),
        ("acme", "c1", "social_post.text", 1, 1, Decimal("5")),
        ("acme", "c2", "blog_post", 1, 1, Decimal("60")),
        ("acme", "c2", "webhook.delivery", 1, 3, Decimal("0.06")),
        ("beta", "", "chat.message", 1, 70, Decimal("70")),
        ("beta", "", "read", 1, 1, Decimal("0")),
        ("idle", "", "read", 1, 1, Decimal("0")),
    ]


def test_usage_by_day(filled: ClickHouse) -> None:
    def utc_day(days: int) -> Any:
        return (NOW - timedelta(days=days)).date()

    rows = ask(filled, "usage_by_day", "day, environment, operation, active_projects, uses, units, credits")
    assert (utc_day(1), "production", "blog_post", 1, 1, 1, Decimal("60")) in rows
    assert (utc_day(2), "production", "chat.message", 1, 1, 70, Decimal("70")) in rows
    assert (utc_day(8), "preview", "chat.message", 1, 1, 1, Decimal("1")) in rows
    assert sum(row[-1] for row in rows) == Decimal("168.06")
    days = [row[0] for row in rows]
    assert days == sorted(days, reverse=True)
    for zone in ("Asia/Kathmandu", "America/New_York"):
        row = fact(timedelta(days=1), 0, 0, 0, "charge", "acme")
        day = datetime.fromtimestamp(row["booked_at"] / 1000, ZoneInfo(zone)).date()
        found = ask(filled, "usage_by_day", "day, credits", tz=zone)
        assert (day, Decimal("60")) in found, zone
    assert ask(filled, "usage_by_day", "sum(credits)", days=40)[0][0] == Decimal("200.06")


def test_top_projects(filled: ClickHouse) -> None:
    assert ask(filled, "top_projects", "project, uses, credits, share_percent") == [
        ("acme", 5, Decimal("98.06"), 58.35),
        ("beta", 2, Decimal("70"), 41.65),
        ("idle", 1, Decimal("0"), 0.0),
    ]


def test_refusals_by_reason(filled: ClickHouse) -> None:
    assert ask(filled, "refusals_by_reason", "reason, operation, refusals, projects") == [
        ("limited_at_edge", "GET *", 40, 1),
        ("out_of_credits", "blog_post", 2, 1),
        ("plan_required", "video.premium", 1, 1),
    ]


def test_dead_letters_by_code_counts_a_repeated_one_once(filled: ClickHouse) -> None:
    rows = ask(filled, "dead_letters_by_code", "code, field, events, latest_detail LIKE 'detail %'")
    assert rows == [("unknown_operation", "data.operation", 2, 1), ("malformed_json", "", 1, 1)]


def test_duplicates_by_source(filled: ClickHouse) -> None:
    columns = "source, duplicates, confirmed, ids_repeated, projects"
    assert ask(filled, "duplicates_by_source", columns) == [("/gateway", 2, 0, 1, 1)]
    # A gateway asks with its key, and reports by Kafka what it was allowed; one of the two reports is once too many.
    hour: Row = {"operation": "image", "quantity": 1, "source": "/edge"}
    more = [
        fact(timedelta(hours=1), 0, 50, 0, "charge", "acme", "-5", **hour, key_id="k1", event_id="a"),
        fact(timedelta(hours=1), 0, 51, 0, "duplicate", "acme", **hour, event_id="a"),
        fact(timedelta(hours=1), 0, 52, 0, "charge", "acme", "-5", **hour, key_id="k1", event_id="b"),
        fact(timedelta(hours=1), 0, 53, 0, "duplicate", "acme", **hour, event_id="b"),
        fact(timedelta(hours=1), 0, 54, 0, "duplicate", "acme", **hour, event_id="b"),
        # It asked twice under one id: no report.
        fact(timedelta(hours=1), 0, 55, 0, "charge", "acme", "-5", **hour, key_id="k1", event_id="c"),
        fact(timedelta(hours=1), 0, 56, 0, "duplicate", "acme", **hour, key_id="k1", event_id="c"),
    ]
    insert(filled, journal_sink(Settings()), more)
    assert ask(filled, "duplicates_by_source", columns + ", decided")[0] == ("/edge", 2, 2, 2, 1, 3)


def test_runs_dry_this_week(filled: ClickHouse) -> None:
    assert ask(filled, "runs_dry_this_week", "*") == [("acme", "production", Decimal("10.94"), Decimal("0.7"))]


def test_late_events_by_source(filled: ClickHouse) -> None:
    columns = "source, later_than_an_hour"
    assert ask(filled, "late_events_by_source", columns) == [("/gateway", 0), ("/preview", 0)]
    for number, (late, source) in enumerate(((5400, "/slow"), (3 * 86400, "/slow"), (10, "/slow"), (10, "/quick"))):
        row = fact(timedelta(hours=1), 0, 60 + number, 0, "charge", "acme", "-1", quantity=1, source=source)
        insert(filled, journal_sink(Settings()), [row | {"occurred_at": row["booked_at"] - late * 1000}])
    assert ask(filled, "late_events_by_source", "*")[0] == ("/slow", 3, 2, 1, 3 * 86400)


def test_dead_letters_by_source_reads_what_can_be_read(filled: ClickHouse) -> None:
    texts = [b'{"source":"/edge","subject":"acme","id":"e1"}', b"\xff\x00 no text", b'["/edge"]', b'{"source":"/edge"']
    rows = [
        dead_letters()[1] | {"journal_offset": 20 + number, "offset": 20 + number, "event": text.decode("latin-1")}
        for number, text in enumerate(texts)
    ]
    insert(filled, dead_letter_sink(Settings()), rows)
    assert ask(filled, "dead_letters_by_source", "source, code, events") == [
        ("", "malformed_json", 4),
        ("", "unknown_operation", 2),
        ("/edge", "malformed_json", 1),
    ]
    found = filled.query("SELECT project, event_id FROM dead_letters WHERE source = '/edge'")
    assert list(found) == [("acme", "e1")]


def test_balance_of_every_project(filled: ClickHouse) -> None:
    assert ask(filled, "balance_of_every_project", "project, environment, credits, agrees, entries") == [
        ("acme", "preview", Decimal("3999"), 1, 2),
        ("acme", "production", Decimal("10.94"), 1, 8),
        ("beta", "production", Decimal("250"), 1, 5),
        ("idle", "production", Decimal("250"), 1, 2),
    ]


def test_balances_that_do_not_agree_with_their_newest_entry_show(filled: ClickHouse) -> None:
    wrong = fact(timedelta(0), 0, 3, 0, "grant", "idle", "1", "250")
    insert(filled, journal_sink(Settings()), [wrong])
    assert ask(filled, "balance_of_every_project", "project, agrees")[-1] == ("idle", 0)


def test_burn_rate(filled: ClickHouse) -> None:
    assert ask(filled, "burn_rate", "*") == [
        ("acme", "production", Decimal("13.865714"), Decimal("10.94"), Decimal("0.7")),
        ("beta", "production", Decimal("10"), Decimal("250"), Decimal("25")),
    ]


def test_ledger_of_a_project_is_that_of_the_newest_entry_until_another_is_named(filled: ClickHouse) -> None:
    assert ask(filled, "ledger_of_a_project", "entry_id, kind, credits, balance_credits") == [
        ("2-7-2", "charge", Decimal("0"), Decimal("250")),
        ("2-7-1", "grant", Decimal("250"), Decimal("250")),
        ("2-7-0", "expiry", Decimal("-180"), Decimal("0")),
        ("2-6-0", "charge", Decimal("-70"), Decimal("180")),
        ("2-5-0", "grant", Decimal("250"), Decimal("250")),
    ]
    sql = (PROJECT_ROOT / "clickhouse" / "queries" / "ledger_of_a_project.sql").read_text()
    before, _, after = sql.partition("\nWITH ")
    named = before + "\nWITH 'acme' AS wanted" + after.partition("AS wanted")[2]
    assert len(filled.query(named)) == 10


def test_revenue_by_month(filled: ClickHouse) -> None:
    two_days = timedelta(days=2)
    more: list[Row] = [
        fact(two_days, 2, 8, 0, "refund", "beta", "-200", reason="top_up", cents=-1_00, billing_account="agency"),
        fact(two_days, 2, 8, 1, "subscription", "beta", environment="", reason="build", cents=119_00),
    ]
    insert(filled, journal_sink(Settings()), more)
    month_now, month_before = ((NOW - timedelta(days=days)).date().replace(day=1) for days in (2, 40))
    assert ask(filled, "revenue_by_month", "*") == [
        (month_now, 2, Decimal("119.00"), Decimal("0.20"), Decimal("-1.00"), Decimal("118.20")),
        (month_before, 1, Decimal("25.00"), Decimal(0), Decimal(0), Decimal("25.00")),
    ]


def test_audit_key_use_by_hour(filled: ClickHouse) -> None:
    more = [
        fact(timedelta(days=2), 3, 8, 0, "charge", "tried", operation="website", key_id="k2", reason="captured"),
        fact(timedelta(days=2), 3, 11, 0, "refusal", "tried", operation="image", key_id="k2", reason="out_of_credits"),
        fact(
            timedelta(days=2), 3, 12, 0, "refusal", "tried", operation="item", key_id="op", source="", reason="unpaid"
        ),
    ]
    insert(filled, journal_sink(Settings()), more)
    rows = ask(filled, "audit_key_use_by_hour", "project, key_id, environment, operation, uses, refused")
    assert rows == [
        ("tried", "k1", "production", "GET *", 40, 40),
        ("tried", "k1", "production", "GET /v1/balance", 4, 0),
        ("tried", "k2", "production", "image", 1, 1),
        ("tried", "k2", "production", "website", 1, 0),
    ]
    (hour,) = {row[0] for row in ask(filled, "audit_key_use_by_hour", "hour")}
    assert (hour.minute, hour.second) == (0, 0)


def test_limits_that_would_have_refused_counts_the_newest_trial(filled: ClickHouse) -> None:
    columns = "project, limits_on_trial, requests, would_be_refused, rate_limited, never, share_percent"
    assert ask(filled, "limits_that_would_have_refused", columns) == [("tried", '{"burst":2}', 45, 40, 39, 1, 88.89)]
    ended = fact(timedelta(days=2, hours=1), 3, 5, 1, "limits", "tried", environment="", reason="shadow")
    insert(filled, journal_sink(Settings()), [ended])
    assert ask(filled, "limits_that_would_have_refused", columns) == [], "none in the time that it lasted"
