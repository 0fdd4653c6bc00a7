"""CSV files: whatever a cell or a heading says, a spreadsheet runs none of it, and a reader of RFC 4180 reads it
back."""

from __future__ import annotations

import ast
import csv
import io
import json
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

import api
import streams
from api.cli.main import app
from api.openapi_document import document
from api.stack import Stack
from api.views.csv_cells import Number, as_csv, checked_csv, csv_pieces, harmless, number_or_text
from tests.calls import Operator, eventually

SIGNS = "=+-@＝＋－＠﹦﹢﹣﹫⁺⁼₊₌−"
# Nothing is to be seen of these: spaces of Unicode, marks of direction, joiners, fillers, a byte order mark.
UNSEEN = " \xa0\u1680\u2000\u2009\u202f\u205f\u3000\u200b\u200c\u200d\u200e\u2060\ufeff\u00ad"
UNSEEN += "\u180e\u034f\u3164\u115f\ufe0f"
CONTROLS = "\t\r\n\x0b\x0c\x00\x85"
FORMULA = '=HYPERLINK("http://evil")'

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
risky = st.builds(
    "".join,
    st.tuples(
        st.text(st.sampled_from(UNSEEN), max_size=3),
        st.sampled_from([*SIGNS, *CONTROLS, "", '"', ",", ";", "'", "5"]),
        texts,
    ),
)
cells = st.one_of(texts, risky)


def read_back(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def first_seen(text: str) -> str:
    """The first character that is seen or moves to another cell, as a spreadsheet may take it; or ""."""
    for character in text:
        if character not in UNSEEN and unicodedata.category(character) not in ("Zs", "Zl", "Zp", "Cf"):
            return unicodedata.normalize("NFKC", character)[:1]
    return ""


@given(st.lists(cells, min_size=1, max_size=4), st.lists(st.lists(cells, min_size=4, max_size=4), max_size=4))
@example(["a"], [["", "\r", '"', "\r\n"]])
def test_every_cell_is_read_back_as_it_was_or_behind_an_apostrophe(columns: list[str], rows: list[list[str]]) -> None:
    quoted = b"".join(csv_pieces(columns, rows, quotes_texts=True)).decode()
    assert read_back(quoted) == read_back(text := as_csv(columns, rows))
    assert text.endswith("\r\n")
    found = read_back(text)
    assert len(found) == len(rows) + 1
    for line, given_cells in zip(found, [columns, *rows], strict=True):
        for cell, was in zip(line, given_cells, strict=True):
            assert cell in (was, f"'{was}")
            assert first_seen(cell) not in {*"=+-@−", *CONTROLS} - {""}, repr(cell)


@given(
    st.lists(st.tuples(cells, cells, st.integers(-5, 5), st.decimals(-9, 9, places=6)), max_size=12),
    st.lists(st.integers(0, 400), max_size=6),
)
@example([("a\r\n", '"', 1, Decimal(2))], [3, 4, 5, 6])
def test_what_the_engine_wrote_becomes_what_would_have_been_written_here(
    rows: list[tuple[str, str, int, Decimal]], cuts: list[int]
) -> None:
    columns = ["one", "other", "uses", "credits"]
    quoted = [[f'"{text}"' for text in (each.replace('"', '""') for each in row[:2])] for row in rows]
    written = [",".join([*texts, str(row[2]), f"{row[3]:f}"]) for texts, row in zip(quoted, rows, strict=True)]
    whole = "".join(f"{line}\r\n" for line in written).encode()
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    pieces = [whole[begin:end] for begin, end in pairwise(places)]
    expected = csv_pieces(columns, [[*map(number_or_text, row[:2]), *row[2:]] for row in rows], quotes_texts=True)
    assert b"".join(checked_csv(columns, 2, pieces)) == b"".join(expected)


@pytest.mark.parametrize("unseen", ["", *UNSEEN, UNSEEN, "\ufeff \xa0"])
@pytest.mark.parametrize("sign", [*SIGNS, "\t", "\r", "\n"])
def test_a_sign_begins_a_formula_behind_whatever_nobody_sees(unseen: str, sign: str) -> None:
    assert harmless(f"{unseen}{sign}1") == f"'{unseen}{sign}1"


@pytest.mark.parametrize("text", ["", "a", "acme", "5", "é=", "a\tb", "'=1", "(1)", "😀", "日本", "#", "customer-1"])
def test_what_runs_nowhere_is_left_as_it_is(text: str) -> None:
    assert harmless(text) == text


@given(st.one_of(st.integers(), st.decimals(allow_nan=False, allow_infinity=False, places=6)))
def test_numbers_stay_numbers_with_their_sign(number: Any) -> None:
    cell = number_or_text(f"{number:f}" if not isinstance(number, int) else f"{number}")
    assert isinstance(cell, Number)
    assert read_back(as_csv(["n"], [[cell]])) == [["n"], [str(cell)]]


@pytest.mark.parametrize("text", ["-", "+1", "-1+1", "--1", "-1|x", "-٣", "-1\n", " -1", "-.5", "-1e"])
def test_what_only_looks_like_a_number_is_text(text: str) -> None:
    assert number_or_text(text) is text
    assert harmless(text) == f"'{text}"


def test_one_place_writes_csv() -> None:
    writers = [
        path.name
        for package in (api, streams)
        for path in Path(package.__path__[0]).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("csv.writer", "csv.DictWriter")
    ]
    assert writers == ["csv_cells.py"]


# Every route that gives CSV, and the parameters that it is asked with.
CSV_ROUTES: dict[str, dict[str, str]] = {
    "GET /v1/usage": {"group_by": "customer_id,metadata.=1+1,metadata. \xa0@x"},
    "GET /v1/audit": {},
    "GET /v1/audit/keys": {},
    "GET /v1/invoices/{month}": {},
    "GET /v1/admin/billing-accounts/{billing_account}/invoices/{month}": {},
}


def test_every_route_with_csv_is_in_the_table() -> None:
    found = {
        f"{method.upper()} {path}"
        for path, methods in json.loads(document())["paths"].items()
        for method, operation in methods.items()
        if "text/csv" in operation["responses"].get("200", {}).get("content", {})
    }
    assert found == CSV_ROUTES.keys()


NAMES = [FORMULA, "\ufeff=1", "\xa0+1", "＝1", "-1|x", "\u200b@x", "plain, with a comma"]


@pytest.fixture(scope="module")
def hostile(operator: Operator) -> tuple[str, str]:
    """A project whose every text is written to be run, and its billing account."""
    account = f"bill-{datetime.now(UTC):%H%M%S%f}"
    body = {"id": account, "name": FORMULA, "email": "a@example.com"}
    assert operator.http.post("/v1/admin/billing-accounts", json=body).status_code == 201
    project = operator.project("hobby", name=FORMULA, billing_account=account)
    operator.lift_limits(project)
    for name in NAMES:
        reason = {"good_standing": True, "reason": name}
        assert operator.http.put(f"/v1/admin/projects/{project}/standing", json=reason).is_success
        metadata = {"customer_id": name, "=1+1": name, " \xa0@x": name, "n": -5}
        use = {"project": project, "operation": "image", "source": name, "metadata": metadata}
        assert operator.http.post("/v1/admissions", json=use).status_code == 200
    question = {"project": project, "group_by": "customer_id"}
    eventually(lambda: len(operator.http.get("/v1/usage", params=question).json()["rows"]) == len(NAMES))
    return project, account


@pytest.mark.parametrize("route", CSV_ROUTES)
def test_no_csv_of_any_route_runs_anything(operator: Operator, hostile: tuple[str, str], route: str) -> None:
    project, account = hostile
    path = route.removeprefix("GET ").format(month=f"{datetime.now(UTC):%Y-%m}", billing_account=account)
    named = {} if "billing-accounts" in path else {"project": project}
    answer = operator.http.get(path, params={**CSV_ROUTES[route], **named, "format": "csv"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/csv; charset=utf-8")
    text = answer.content.decode()
    heading, *rows = read_back(text)
    assert rows
    assert all(len(row) == len(heading) for row in rows)
    assert text.replace("\r\n", "").count("\n") == 0, "CRLF ends the lines"
    for cell in [*heading, *(cell for row in rows for cell in row)]:
        assert first_seen(cell) not in ("=", "+", "-", "@") or isinstance(number_or_text(cell), Number), repr(cell)


def test_headings_are_the_groups_that_were_asked_for(operator: Operator, hostile: tuple[str, str]) -> None:
    project, _ = hostile
    keys = ("=1+1", " \xa0@x", 'a"b`c;\n', "g0", "uses", "quantity_sum")
    for group in ("operation", *(f"metadata.{key}" for key in keys)):
        params = {"project": project, "group_by": group, "format": "csv"}
        (heading, *rows) = read_back(operator.http.get("/v1/usage", params=params).content.decode())
        assert heading == [group, "uses", "quantity", "credits"]
        assert sum(int(row[1]) for row in rows) == len(NAMES)
    of_number = {"project": project, "group_by": "metadata.n,operation", "format": "csv"}
    found = read_back(operator.http.get("/v1/usage", params=of_number).content.decode())
    assert found == [
        ["metadata.n", "operation", "uses", "quantity", "credits"],
        ["-5", "image", str(len(NAMES)), str(len(NAMES)), str(32 * len(NAMES))],
    ]


@pytest.mark.parametrize("form", ["json", "csv"])
@pytest.mark.parametrize(
    ("group_by", "twice"),
    [
        ("operation,operation", "operation"),
        ("day,operation,day", "day"),
        ("metadata.a,metadata.b,metadata.a", "metadata.a"),
        ("customer_id,,customer_id", "customer_id"),
    ],
)
def test_a_group_named_twice_is_refused_by_its_name(operator: Operator, form: str, group_by: str, twice: str) -> None:
    params = {"project": operator.project(), "group_by": group_by, "format": form}
    problem = operator.http.get("/v1/usage", params=params).json()
    assert (problem["status"], problem["code"], problem["field"]) == (422, "invalid_request", "group_by")
    assert repr(twice) in problem["detail"]


def test_metadata_keys_that_are_alike_are_columns_of_their_own(operator: Operator, hostile: tuple[str, str]) -> None:
    project, _ = hostile
    params = {"project": project, "group_by": "metadata.a b,metadata.a_b,metadata.a-b", "format": "csv"}
    (heading, *_) = read_back(operator.http.get("/v1/usage", params=params).content.decode())
    assert heading[:3] == ["metadata.a b", "metadata.a_b", "metadata.a-b"]


@pytest.mark.parametrize("command", ["invoice", "statement"])
def test_the_commands_print_the_files_of_the_service(
    operator: Operator,
    hostile: tuple[str, str],
    stack: Stack,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: str,
) -> None:
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))
    whose = hostile[command == "invoice"]
    month, out = f"{datetime.now(UTC):%Y-%m}", tmp_path / "file.csv"
    run: Callable[..., Any] = CliRunner().invoke
    done = run(app, ["billing", command, whose, month, "--format", "csv", "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    printed = run(app, ["billing", command, whose, month, "--format", "csv"], catch_exceptions=False)
    assert printed.stdout_bytes == out.read_bytes()
    _, *rows = read_back(out.read_bytes().decode())
    assert rows and all(row[5] == f"'{FORMULA}" for row in rows)
