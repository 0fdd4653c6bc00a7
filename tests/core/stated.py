"""Statements are in the table of facts: each fact as it comes, and every statement in the text of the core."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import streams.core
from schemas.facts import FACT_KINDS, Fact, Kind, ReasonSet
from schemas.problems import CODES
from streams.core.grants import GRANT_KINDS as _GRANT_KINDS
from streams.core.plans import PLANS

GRANT_KINDS = frozenset(_GRANT_KINDS)
IN_SET: Mapping[ReasonSet, Callable[[str], object]] = {
    "problem code": CODES.__contains__,
    "plan": PLANS.__contains__,
    "grant kind": GRANT_KINDS.__contains__,
    "price version": re.compile(r"[A-Za-z0-9._-]{1,32}").fullmatch,
}


def check_stated(facts: Iterable[Fact]) -> None:
    """Raises AssertionError for a fact whose kind, reason or sums the table does not know."""
    for fact in facts:
        assert fact.kind in FACT_KINDS, f"no such kind: {fact}"
        kind = FACT_KINDS[fact.kind]
        assert may_bear(fact.kind, fact.reason), f"no such reason of its kind: {fact}"
        assert kind.is_entry or not fact.amount, f"no ledger entry: {fact}"
        assert bool(fact.grant_id) or not (fact.amount or fact.held), f"on no grant: {fact}"
        assert kind.bears_held or not fact.held, f"what is held changes: {fact}"
        assert kind.bears_cents or not fact.cents, f"it bears money: {fact}"


def may_bear(kind: Kind, reason: str) -> bool:
    """Whether the table lets a fact of the kind bear the reason."""
    known = FACT_KINDS[kind]
    return reason in known.reasons or (known.reasons_from is not None and bool(IN_SET[known.reasons_from](reason)))


# A function with its module, and what a text in it may be; None is what only running tells.
_Function = tuple[str, ast.FunctionDef]
_Texts = frozenset[str | None]
_UNKNOWN: _Texts = frozenset({None})
_FIELDS = list(Fact.__struct_fields__)


def stated_in_core() -> set[tuple[str, str | None, str]]:
    """(kind, reason, module) of every statement in the text of `streams.core`; the reason is None where it is no text
    there."""
    core = _Core(Path(streams.core.__path__[0]))
    return {
        (str(kind), reason, function[0])
        for function, call in core.calls
        for said in [_statement(call)]
        if said is not None
        for kinds, reasons in core.texts(function, said)
        for kind in kinds
        for reason in reasons
    }


def _statement(call: ast.Call) -> list[ast.expr] | None:
    """The kind and the reason that a call states, if it states any."""
    if isinstance(call.func, ast.Attribute) and call.func.attr in ("state", "state_usage"):
        reasons = [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
        return [call.args[0], *(reasons or [ast.Constant("")])]
    if isinstance(call.func, ast.Name) and call.func.id == "Fact":
        return [call.args[_FIELDS.index("kind")], call.args[_FIELDS.index("reason")]]
    return None


class _Core:
    """The calls in the functions of the core. `booking` is left out: it states what it is told to."""

    def __init__(self, package: Path) -> None:
        self.calls: list[tuple[_Function, ast.Call]] = []
        for path in sorted(package.glob("*.py")):
            if path.stem != "booking":
                for function in ast.walk(ast.parse(path.read_text())):
                    if isinstance(function, ast.FunctionDef):
                        self.calls += [((path.stem, function), call) for call in _own_calls(function)]

    def texts(self, function: _Function, expressions: list[ast.expr]) -> list[list[_Texts]]:
        """The values of expressions in a function: for each way to call it, where they depend on its parameters."""
        module, definition = function
        arguments = definition.args
        by_place = [each.arg for each in arguments.args]
        parameters = {*by_place, *(each.arg for each in arguments.kwonlyargs)}
        asked = sorted(parameters & {name for each in expressions for name in _names(each)})
        defaults = dict(zip(reversed(by_place), reversed(arguments.defaults), strict=False))
        defaults |= {
            each.arg: value
            for each, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            if value is not None
        }
        found = []
        for caller, call in self.calls if asked else ():
            is_private = definition.name.startswith("_")
            if _called(call) != definition.name or (is_private and caller[0] != module):
                continue
            given = defaults | dict(zip(by_place, call.args, strict=False))
            given |= {each.arg: each.value for each in call.keywords if each.arg is not None}
            for texts in self.texts(caller, [given[name] for name in asked]):
                known = dict(zip(asked, texts, strict=True))
                found.append([_texts(each, definition, known) for each in expressions])
        return found or [[_texts(each, definition, {}) for each in expressions]]


def _names(expression: ast.expr) -> Iterator[str]:
    """The names that an expression may be the value of."""
    if isinstance(expression, ast.Name):
        yield expression.id
    elif isinstance(expression, ast.IfExp):
        yield from _names(expression.body)
        yield from _names(expression.orelse)


def _texts(expression: ast.expr, function: ast.FunctionDef, known: dict[str, _Texts]) -> _Texts:
    match expression:
        case ast.Constant(value=str() as text):
            return frozenset({text})
        case ast.IfExp(body=one, orelse=other):
            return _texts(one, function, known) | _texts(other, function, known)
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.Name(id=name):
            assigned = [
                each.value
                for each in ast.walk(function)
                if isinstance(each, ast.Assign)
                and any(isinstance(target, ast.Name) and target.id == name for target in each.targets)
            ]
            inside = known | {name: _UNKNOWN}
            return frozenset[str | None]().union(*(_texts(each, function, inside) for each in assigned)) or _UNKNOWN
    return _UNKNOWN


def _own_calls(function: ast.FunctionDef) -> Iterator[ast.Call]:
    """The calls in a function, but for those in functions within it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call):
            yield node
        if not isinstance(node, ast.FunctionDef):
            waiting += ast.iter_child_nodes(node)


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
