"""The panels of the Grafana dashboard give known answers, on the real engine with a small history. Grafana itself is
not here: `as_sent` writes each panel's SQL as its ClickHouse plugin does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from streams.clickhouse.analysts import TABLES, VIEWS
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.historian import dead_letter_sink, journal_sink
from streams.clickhouse.migrations import migrate
from streams.embedded.clickhouse_front import create_front
from streams.settings import PROJECT_ROOT, Settings
from tests.engine import Serve
from tests.history.test_queries import NOW, dead_letters, fact, history, insert

DASHBOARD = json.loads((PROJECT_ROOT / "clickhouse/grafana/dashboards/meterline.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}
SQL = {title: panel["targets"][0]["rawSql"] for title, panel in PANELS.items()}
VARIABLES = {each["name"]: each["query"] for each in DASHBOARD["templating"]["list"]}
INTERVAL_SECONDS = 3600


def as_sent(sql: str, days: int = 30, **variables: str) -> str:
    """SQL as the plugin sends it for the last `days` days: Grafana writes variables, `:sqlstring` in quotes, which are
    doubled within; the plugin writes its macros, as version 4.20 has them in pkg/macros/macros.go."""
    since, until = (f"toDateTime({int(at.timestamp())})" for at in (NOW - timedelta(days=days), NOW))
    for name, value in (VARIABLES | variables).items():
        sql = sql.replace(f"${{{name}:sqlstring}}", "'" + value.replace("'", "''") + "'")
    sql = re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 >= {since} AND \1 <= {until}", sql)
    sql = re.sub(
        r"\$__timeInterval\((\w+)\)", rf"toStartOfInterval(toDateTime(\1), INTERVAL {INTERVAL_SECONDS} second)", sql
    )
    sql = sql.replace("$__fromTime", since).replace("$__toTime", until)
    assert "$" not in sql, "a macro or variable that is not written here"
    return sql


@pytest.fixture(scope="module")
def filled(engine: ClickHouse) -> ClickHouse:
    """The engine with the history that the queries are tested on, and with events that are late, and some broken."""
    migrate(engine)
    late = []
    for number, seconds in enumerate((5400, 3 * 86400, 10)):
        row = fact(timedelta(days=3), 0, 60 + number, 0, "charge", "late", "-1", "0", quantity=1, source="/slow")
        late.append(row | {"occurred_at": row["booked_at"] - seconds * 1000})
    insert(engine, journal_sink(Settings()), [*history(), *late])
    named = {"journal_offset": 20, "offset": 20, "event": '{"source":"/edge","subject":"acme"}'}
    insert(engine, dead_letter_sink(Settings()), [*dead_letters(), dead_letters()[1] | named])
    return engine


def at(**ago: float) -> datetime:
    return NOW - timedelta(**ago)


def credits_by_day() -> list[tuple[Any, ...]]:
    spent = [
        (at(days=8), "chat.message", "1"),
        (at(days=3), "", "3"),
        (at(days=3), "social_post.image", "32"),
        (at(days=3), "social_post.text", "5"),
        (at(days=2), "chat.message", "70"),
        (at(days=1), "blog_post", "60"),
        (at(days=1), "webhook.delivery", "0.06"),
    ]
    return [(day.replace(hour=0, minute=0, second=0, microsecond=0), name, Decimal(at)) for day, name, at in spent]


def refusals() -> list[tuple[Any, ...]]:
    def hour(**ago: float) -> datetime:
        return at(**ago).replace(minute=0, second=0, microsecond=0)

    return [
        (hour(days=2), "limited_at_edge", 40),
        (hour(hours=5), "out_of_credits", 1),
        (hour(hours=4), "out_of_credits", 1),
        (hour(hours=3), "plan_required", 1),
    ]


Answer = list[tuple[Any, ...]]
ANSWERS: dict[str, tuple[dict[str, Any], Callable[[Answer], object], object]] = {
    "Newest decision": (
        {},
        lambda rows: 3600 <= rows[0][0] < 3600 + (datetime.now(UTC) - NOW).total_seconds() + 60,
        True,
    ),
    "Used in this time": ({}, list, [(Decimal("171.06"), 11, 4)]),
    "Credits by day and operation": ({}, list, credits_by_day()),
    "Top projects": (
        {},
        lambda rows: [row[:3] for row in rows],
        [
            ("acme", 5, Decimal("98.06")),
            ("beta", 2, Decimal("70")),
            ("late", 3, Decimal("3")),
            ("idle", 1, Decimal("0")),
        ],
    ),
    "Budgets that run dry first": (
        {"days": 7},
        lambda rows: rows[1:],
        [
            ("acme", "production", Decimal("10.94"), Decimal("13.865714"), Decimal("0.7")),
            ("beta", "production", Decimal("250"), Decimal("10"), Decimal("25")),
        ],
    ),
    "Refusals by reason": ({}, list, refusals()),
    "Late events by producer": (
        {},
        lambda rows: [(*row[:1], *row[2:]) for row in rows],
        [("/slow", 2, 1, 3 * 86400), ("/gateway", 0, 0, 0), ("/preview", 0, 0, 0)],
    ),
    "Dead letters by producer": (
        {},
        lambda rows: [row[:3] for row in rows],
        [("", "unknown_operation", 2), ("", "malformed_json", 1), ("/edge", "malformed_json", 1)],
    ),
    "Customers of the project": (
        {"project": "acme"},
        list,
        [
            ("c2", "blog_post", 1, 1, Decimal("60")),
            ("c1", "social_post.image", 1, 1, Decimal("32")),
            ("c1", "social_post.text", 1, 1, Decimal("5")),
            ("", "chat.message", 1, 1, Decimal("1")),
            ("c2", "webhook.delivery", 1, 3, Decimal("0.06")),
        ],
    ),
}


def asked(clickhouse: ClickHouse, sql: str) -> Answer:
    return [tuple(row) for row in clickhouse.query(sql)]


def test_every_panel_gives_a_known_answer_also_through_a_laptops_front(filled: ClickHouse, serve: Serve) -> None:
    assert ANSWERS.keys() == PANELS.keys()
    url = serve(create_front(filled))
    for title, (given, part, expected) in ANSWERS.items():
        sql = as_sent(SQL[title], **given)
        rows = asked(filled, sql)
        assert part(rows) == expected, title
        answer = httpx.post(url, content=sql, params={"default_format": "CSV"})
        assert (answer.status_code, len(answer.text.splitlines())) == (200, len(rows)), answer.text


def test_a_panel_is_of_one_project_where_one_is_named(filled: ClickHouse) -> None:
    of_acme = {title: asked(filled, as_sent(sql, project="acme")) for title, sql in SQL.items() if "{project:" in sql}
    assert of_acme["Used in this time"] == [(Decimal("98.06"), 5, 1)]
    assert {row[0] for row in of_acme["Budgets that run dry first"]} == {"acme"}
    assert {row[1] for row in of_acme["Refusals by reason"]} == {"out_of_credits", "plan_required"}
    assert {row[0] for row in of_acme["Late events by producer"]} == {"/gateway", "/preview"}
    assert [row[:3] for row in of_acme["Dead letters by producer"]] == [("/edge", "malformed_json", 1)]
    # What a person types into the box is a text, and no SQL.
    nobody = asked(filled, as_sent(SQL["Used in this time"], project="' OR '1' = '1"))
    assert nobody == [(Decimal(0), 0, 0)]


def test_days_are_those_of_the_zone_that_is_named(filled: ClickHouse) -> None:
    rows = asked(filled, as_sent(SQL["Credits by day and operation"], tz="Asia/Kathmandu"))
    assert sum(row[2] for row in rows) == Decimal("171.06")
    assert {(row[0].utcoffset(), row[0].hour, row[0].minute) for row in rows} <= {
        (timedelta(hours=5, minutes=45), 0, 0),
        (timedelta(0), 18, 15),
    }


def test_sums_over_all_projects_come_from_projections(filled: ClickHouse) -> None:
    sums = ("Used in this time", "Credits by day and operation", "Top projects", "Refusals by reason")
    for title in sums:
        sql = as_sent(SQL[title])
        assert asked(filled, f"{sql} SETTINGS force_optimize_projection = 1") == asked(filled, sql), title


def test_panels_ask_the_provisioned_source_for_what_an_analyst_may_read() -> None:
    for panel in PANELS.values():
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert sources == [{"type": "grafana-clickhouse-datasource", "uid": "meterline"}] * 2
        (target,) = panel["targets"]
        assert (target["queryType"], target["format"]) in {("table", 1), ("timeseries", 0)}
        assert set(re.findall(r"\bFROM (\w+)", target["rawSql"])) <= {*TABLES, *VIEWS}
        assert panel["description"]
