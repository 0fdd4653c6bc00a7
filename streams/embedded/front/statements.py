"""The judge of a reader's statement. It reads the text that the engine's own formatter made of it, and that text is
what is run: one statement, no comments, keywords in capitals, names quoted only where they must be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from streams.embedded.front.allowed import NotAllowed, Unlisted, check_format, check_setting

_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
    | (?P<string>'(?:[^'\\]|\\.|'')*')
    | (?P<quoted>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")
    | (?P<number>\d\w*(?:\.\w*)?(?:(?<=[eE])[+-]\d+)?)
    | (?P<name>[A-Za-z_]\w*)
    | (?P<mark>->|::|<=>|<=|>=|<>|!=|==|\|\||[()\[\]{},.;:+*%=<>?|@^&~!]|-(?!-)|/(?!\*))
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

_FIRST = frozenset({"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS"})
# What may follow SHOW, or SHOW FULL, SHOW EXTENDED; and then SHOW CREATE.
_SHOWN = frozenset({"TABLES", "DATABASES", "COLUMNS", "INDEX", "INDEXES", "KEYS", "FUNCTIONS", "SETTINGS", "CREATE"})
_SHOWN_CREATED = frozenset({"TABLE", "VIEW", "DATABASE"})
_EXPLAINED = frozenset({"AST", "SYNTAX", "QUERY", "PLAN", "PIPELINE", "ESTIMATE", "SELECT", "WITH", "FROM"})
_WRITES_OR_READS_FILES = frozenset({"OUTFILE", "INFILE"})

ONLY = "Only SELECT, SHOW, DESCRIBE, EXPLAIN and EXISTS of what is in the database are allowed here (READONLY)"


class Token(NamedTuple):
    """A token of a statement. The text of a quoted name is the name."""

    type: str
    text: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A statement that may be run, the settings that it names itself, and the format that it names itself."""

    sql: str
    settings: Mapping[str, str] = field(default_factory=dict)
    format: str | None = None
    reads_settings: bool = False


def judge(formatted: str, parameters: Mapping[str, str], in_system: bool, refused: Unlisted) -> Judged:
    """Judge a formatted statement. Raises NotAllowed.

    `in_system` says that names without a database are names in `system`. A parameter of the type Identifier is put into
    the text, so that it is judged like any name.
    """
    sql = _with_identifiers(formatted, parameters)
    tokens = list(_tokens(sql))
    _check_kind([token.text for token in tokens if token.text != "("][:3])
    for token, after in zip(tokens, [*tokens[1:], Token("", "")], strict=True):
        if token.type == "name" and token.text in _WRITES_OR_READS_FILES:
            raise NotAllowed(ONLY)
        if token.type in ("name", "quoted"):
            _check_name(token, after, refused)
    _check_tables(tokens, in_system, refused)
    reads_settings = "settings" in _system_tables(tokens, in_system, frozenset({"settings"}))
    return Judged(sql, dict(_settings(tokens)), _format(tokens), reads_settings)


def _tokens(sql: str) -> Iterator[Token]:
    at = 0
    while at < len(sql):
        found = _TOKEN.match(sql, at)
        if found is None:
            raise NotAllowed(f"The statement has {sql[at]!r} at a place where it can't be judged")
        at = found.end()
        group = str(found.lastgroup)
        if group == "quoted":
            quote, inner = found[0][0], found[0][1:-1]
            yield Token(group, _ESCAPED.sub(r"\1", inner.replace(quote * 2, quote)))
        elif group != "space":
            yield Token(group, found[0])


def _with_identifiers(sql: str, parameters: Mapping[str, str]) -> str:
    """Put the parameters of the type Identifier into the text."""

    def quoted(found: re.Match[str]) -> str:
        if found["name"] not in parameters:
            raise NotAllowed(f"The parameter {found['name']} has no value")
        return "`" + parameters[found["name"]].replace("\\", "\\\\").replace("`", "\\`") + "`"

    return re.sub(r"\{(?P<name>\w+):\s*Identifier\s*\}", quoted, sql, flags=re.IGNORECASE)


def _check_kind(words: Sequence[str]) -> None:
    first, second, third = [*words, "", "", ""][:3]
    if second in ("FULL", "EXTENDED"):
        second = third
    fine = first in _FIRST
    if first == "SHOW":
        fine = second in _SHOWN and (second != "CREATE" or third in _SHOWN_CREATED)
    elif first == "EXPLAIN":
        # An option of EXPLAIN is a name in small letters.
        fine = second in _EXPLAINED or second.islower()
    if not fine:
        raise NotAllowed(ONLY)


def _check_name(token: Token, after: Token, refused: Unlisted) -> None:
    name = token.text.lower()
    # A function may be named without being called, as in arrayMap(f, …).
    if name in refused.functions or (name in refused.table_functions and after.text == "(" and after.type == "mark"):
        raise NotAllowed(f"{token.text[:64]} is not among the functions that are allowed here. {ONLY}")


def _check_tables(tokens: Sequence[Token], in_system: bool, refused: Unlisted) -> None:
    for before, token in zip(tokens, tokens[1:], strict=False):
        # The engine takes a table that it does not know for a file of that name.
        if token.type == "quoted" and before.text in ("FROM", "JOIN", "TABLE", "IN") and "/" in token.text:
            raise NotAllowed(ONLY)
    for name in _system_tables(tokens, in_system, refused.system_tables):
        raise NotAllowed(f"system.{name} is not among the tables that can be read here")


def _system_tables(tokens: Sequence[Token], in_system: bool, names: frozenset[str]) -> list[str]:
    """The tables of `system`, out of `names`, that a statement names."""
    return [
        token.text
        for place, token in enumerate(tokens)
        if token.type in ("name", "quoted")
        and token.text in names
        and (in_system or (place > 1 and (tokens[place - 2].text, tokens[place - 1].text) == ("system", ".")))
    ]


def _settings(tokens: Sequence[Token]) -> Iterator[tuple[str, str]]:
    """The settings that clauses of a statement name, each of which may be set."""
    for place, token in enumerate(tokens):
        if token != ("name", "SETTINGS") or (place and tokens[place - 1].text == "SHOW"):
            continue
        at = place + 1
        while True:
            name, equals, value, after = [*tokens[at : at + 4], *[Token("", "")] * 4][:4]
            if (
                name.type not in ("name", "quoted")
                or equals.text != "="
                or value.type not in ("number", "string", "name")
            ):
                raise NotAllowed("SETTINGS takes a name, =, and a number or a string here")
            text = _ESCAPED.sub(r"\1", value.text[1:-1]) if value.type == "string" else value.text
            check_setting(name.text, text)
            yield name.text, text
            if after.text != ",":
                break
            at += 4


def _format(tokens: Sequence[Token]) -> str | None:
    named = None
    for token, after in zip(tokens, tokens[1:], strict=False):
        if token == ("name", "FORMAT") and after.type in ("name", "quoted"):
            check_format(after.text)
            named = after.text
    return named
