"""The table of facts: the core states all that is in it and nothing else; documents and questions agree with it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from api.dashboard.form_fields import FieldKind
from schemas.facts import ENTRY_KINDS, FACT_KINDS, USAGE_KINDS, Fact, FactKind, Kind, Reason
from schemas.http.invoices import LineKind
from schemas.problems import CODES
from streams.core.endpoints import KINDS as ENDPOINT_KINDS
from streams.core.plans import PLANS
from streams.kafka.codecs import decode_facts, encode_facts
from streams.settings import PROJECT_ROOT
from tests.core.stated import GRANT_KINDS, check_stated, may_bear, stated_in_core

KINDS = frozenset(get_args(Kind))
REASONS = frozenset(get_args(Reason)) | CODES.keys() | PLANS.keys() | GRANT_KINDS
# What else has a `kind` in Python: grants, the lines of invoices, endpoints, and the fields of forms.
KINDS_OF_ALL = KINDS | GRANT_KINDS | {*ENDPOINT_KINDS, *get_args(LineKind), *get_args(FieldKind)}

README = (PROJECT_ROOT / "clickhouse" / "README.md").read_text()
PYTHON = sorted(path for package in ("streams", "api") for path in (PROJECT_ROOT / package).rglob("*.py"))
QUERIES = sorted((PROJECT_ROOT / "clickhouse" / "queries").glob("*.sql"))

_SQL_TEXTS = re.compile(r"\b(kind|reason)\s*(?:=|!=|IN)\s*(\([^)]*\)|'[^']*')")


def fact(kind: str, reason: str, **changes: Any) -> Fact:
    values: dict[str, Any] = dict.fromkeys(Fact.__struct_fields__, "") | {"kind": kind, "reason": reason}
    numbers = ("offset", "index", "quantity", "amount", "balance", "occurred_at_ms", "booked_at_ms", "held", "cents")
    return Fact(**values | dict.fromkeys(numbers, 0) | changes)


def test_the_table_has_every_kind_and_every_reason_that_there_is_and_no_other() -> None:
    assert list(FACT_KINDS) == list(get_args(Kind))
    assert {reason for kind in FACT_KINDS.values() for reason in kind.reasons} == set(get_args(Reason))
    assert all(kind.reasons or kind.reasons_from for kind in FACT_KINDS.values())
    assert all(kind.says and all(kind.reasons.values()) for kind in FACT_KINDS.values())
    assert set(USAGE_KINDS) < set(ENTRY_KINDS)


def test_the_core_states_what_is_in_the_table_and_all_that_is_in_the_table() -> None:
    stated = stated_in_core()
    assert {kind for kind, _, _ in stated} == KINDS
    for kind, known in FACT_KINDS.items():
        reasons = {reason for stated_kind, reason, _ in stated if stated_kind == kind}
        others = {reason for reason in reasons if reason not in known.reasons}
        assert reasons - others == set(known.reasons), kind
        # Some only running tells: the tests that run much of it ask `check_stated`.
        assert all(reason is None or may_bear(kind, reason) for reason in others), kind
        assert bool(others) == (known.reasons_from is not None), kind
        assert {module for stated_kind, _, module in stated if stated_kind == kind} == set(known.stated_by), kind


@pytest.mark.parametrize(
    "wrong",
    [
        fact("gift", ""),
        fact("charge", "captivated"),
        fact("charge", "out_of_credits"),
        fact("refusal", ""),
        fact("subscription", "gold"),
        fact("request", "", amount=-1, grant_id="top_up-1-0"),
        fact("charge", "", amount=-1),
        fact("expiry", "allowance", amount=-1, held=-1, grant_id="allowance-1-0"),
        fact("charge", "", cents=1),
    ],
    ids=lambda wrong: f"{wrong.kind} {wrong.reason}",
)
def test_a_fact_that_the_table_does_not_know_is_told(wrong: Fact) -> None:
    check_stated(
        [fact("charge", "captured", amount=-1, held=-1, grant_id="top_up-1-0"), fact("shadow", "rate_limited")]
    )
    with pytest.raises(AssertionError):
        check_stated([wrong])


def test_a_kind_that_a_newer_version_has_stated_is_read() -> None:
    newer = fact("gift", "birthday")
    assert decode_facts(encode_facts([newer])) == [newer]


def test_the_readme_of_clickhouse_says_of_every_kind_what_the_table_says() -> None:
    _, _, table = README.partition("| `kind` | what it says | `reason` |\n|---|---|---|\n")
    rows = [line.strip("|").split("|") for line in table.partition("\n\n")[0].splitlines()]
    told = {kind.strip(" `"): (says.strip(), reasons.strip()) for kind, says, reasons in rows}
    assert list(told) == list(FACT_KINDS)
    for kind, known in FACT_KINDS.items():
        says, reasons = told[kind]
        assert says == known.says or says.startswith(f"{known.says}. "), kind
        assert reasons == reasons_text(known), kind


def reasons_text(kind: FactKind) -> str:
    named = [f"{f'`{reason}`' if reason else 'none'}: {says}" for reason, says in kind.reasons.items()]
    return "; ".join([*named, *([f"a {kind.reasons_from}"] if kind.reasons_from else [])])


def test_the_ledger_has_the_kinds_that_are_entries() -> None:
    views = [
        found.group(1)
        for path in sorted((PROJECT_ROOT / "clickhouse" / "migrations").glob("*.sql"))
        for found in re.finditer(r"VIEW[^;]*ledger_entries AS.*?kind IN \(([^)]*)\);", path.read_text(), re.DOTALL)
    ]
    assert tuple(re.findall(r"'(\w+)'", views[-1])) == ENTRY_KINDS
    told = re.search(r"a fact that moves credits \(([^)]*)\)", README)
    assert told is not None
    assert tuple(told.group(1).split(", ")) == ENTRY_KINDS


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_a_query_asks_for_kinds_and_reasons_that_there_are(path: Path) -> None:
    for column, texts in _SQL_TEXTS.findall(path.read_text()):
        assert set(re.findall(r"'([^']*)'", texts)) <= (KINDS if column == "kind" else REASONS)


def test_sql_in_python_is_told_the_kinds_and_asks_for_reasons_that_there_are() -> None:
    for path in PYTHON:
        for text in re.findall(r"\bkind\s*(?:=|!=|IN)\s*\(?'\w*'", path.read_text()):
            raise AssertionError(f"{path}: {text} is to be built by `streams.history.facts.kind_in`")
        for column, texts in _SQL_TEXTS.findall(path.read_text()):
            if column == "reason":
                assert set(re.findall(r"'(\w*)'", texts)) <= REASONS, path


def test_python_asks_for_kinds_and_reasons_that_there_are() -> None:
    compared = [(path, *each) for path in PYTHON for each in _compared(ast.parse(path.read_text()))]
    assert len(compared) > 100
    for path, name, text in compared:
        assert text in (KINDS_OF_ALL if name == "kind" else REASONS), f"{path}: no {name} is {text!r}"


def _compared(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The texts that a `kind` or a `reason` is compared with, or matched against."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for name, other in zip(_names(node.left), node.comparators, strict=False):
                yield from ((name, text) for text in _texts(other))
            if isinstance(node.left, ast.Tuple) and len(texts := list(_texts(node.left))) == 2:
                yield from zip(("kind", "reason"), texts, strict=True)
        elif isinstance(node, ast.Match):
            for name in _names(node.subject):
                for case in node.cases:
                    yield from ((name, text) for text in _texts(case.pattern))


def _names(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and node.attr in ("kind", "reason"):
        yield node.attr
    elif isinstance(node, ast.Name) and node.id == "reason":
        yield node.id


def _texts(node: ast.AST) -> Iterator[str]:
    """The texts of a constant, of a tuple of them, or of a pattern."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value
