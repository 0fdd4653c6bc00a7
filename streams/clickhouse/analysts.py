"""Analysts are users of a ClickHouse server who may read the history and nothing else, each within a quota, and all of
it or one project's rows.

A view reads with the rights of who asks, so a row policy on the tables holds in the views too. An analyst is known by a
quota, which is made first and dropped last: what was broken off half-way is found, and `--rotate` finishes it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, NamedTuple

from clickhouse_connect.driver.exceptions import DatabaseError

from schemas.events import PROJECT_ID_PATTERN
from streams.clickhouse.client import ClickHouse, sql_literal, sql_name
from streams.errors import OperatorError
from streams.settings import Settings

# What an analyst may read: the tables with the rows of projects, and the views over them.
TABLES = ("facts", "backfilled", "dead_letters", "deliveries")
VIEWS = ("usage", "charges", "ledger_entries")

PASSWORD_CHARS_MIN = 12
# With `readonly = 1` a user can change no setting but those that are named; drivers send how long they wait.
_SETTINGS = (
    "readonly = 1, max_execution_time = 60 MIN 1 MAX 300 CHANGEABLE_IN_READONLY, max_memory_usage = 4294967296, "
    "max_result_rows = 50000000, max_result_bytes = 1073741824"
)
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}", re.ASCII)
_PROJECT = re.compile(PROJECT_ID_PATTERN)
_PREFIX = "meterline_analyst_"
_OWN_PREFIX = "meterline_own_"
_ACCESS_DENIED = 497

_READ = """
SELECT quotas.name, max_queries, max_read_rows, toUInt64(max_execution_time)
FROM system.quotas AS quotas
LEFT JOIN system.quota_limits AS limits ON limits.quota_name = quotas.name
WHERE startsWith(quotas.name, {prefix:String})
ORDER BY quotas.name
"""


class AnalystError(OperatorError):
    """An analyst can't be made or removed; the message says why, and what to do."""


class Quota(NamedTuple):
    """A Quota bounds what an analyst may take of ClickHouse in an hour: queries, rows read, seconds of execution."""

    queries: int = 2_000
    rows: int = 20_000_000_000
    seconds: int = 3_600


class Analyst(NamedTuple):
    """An Analyst as ClickHouse has it; `project` is "" where it may read all rows."""

    name: str
    project: str
    quota: Quota

    @property
    def mark(self) -> str:
        """The name of its quota and its row policies, which says what it may read: no other name has an @."""
        return f"{_PREFIX}{self.name}@{self.project}" if self.project else _PREFIX + self.name


def check_server(settings: Settings) -> None:
    """Check that these settings name a server. Raises AnalystError with what to use where they do not."""
    if settings.clickhouse_url is None:
        raise AnalystError(
            "the embedded ClickHouse has no users: analysts of a laptop ask its HTTP front, which is read-only and has "
            f"limits of its own, with the token in {settings.front_token_path}; docs/analysts.md says how. For users, "
            "set METERLINE_CLICKHOUSE_URL to a server"
        )


def check_names(name: str, project: str | None, password: str | None) -> None:
    """Check an analyst's name, its project, and a password that is given. Raises AnalystError."""
    if not _NAME.fullmatch(name):
        raise AnalystError("an analyst's name is a small letter, then up to 62 small letters, digits, _ and -")
    if project is not None and not _PROJECT.fullmatch(project):
        raise AnalystError("a project's id has 1 to 64 letters, digits, _ and -")
    if password is not None and len(password) < PASSWORD_CHARS_MIN:
        raise AnalystError(f"a password has {PASSWORD_CHARS_MIN} characters at least")


def analysts(clickhouse: ClickHouse) -> list[Analyst]:
    """The analysts of this server, by name. Raises AnalystError."""
    found = []
    for mark, *quota in _asked(clickhouse, _READ, {"prefix": _PREFIX}):
        name, _, project = str(mark).removeprefix(_PREFIX).partition("@")
        found.append(Analyst(name, project, Quota(*(each or 0 for each in quota))))
    return found


def add_analyst(
    clickhouse: ClickHouse,
    name: str,
    *,
    project: str | None = None,
    password: str | None = None,
    quota: Quota | None = None,
    rotate: bool = False,
) -> tuple[Analyst, str]:
    """Make an analyst; gives it with its password, which is made up where none is given.

    With `rotate` one that is there gets a new password, the rights of this version, and a quota where one is given; it
    keeps its project. Raises AnalystError for a name that is taken, or is none.
    """
    check_names(name, project, password)
    there = {each.name: each for each in analysts(clickhouse)}.get(name)
    if there is None:
        ((is_taken,),) = _asked(
            clickhouse, "SELECT count() FROM system.users WHERE name = {name:String}", {"name": name}
        )
        if is_taken:
            raise AnalystError(f"ClickHouse has a user {name} that is no analyst of Meterline's: give another name")
    elif not rotate:
        raise AnalystError(
            f"there is an analyst {name}: --rotate gives a new password, `analysts remove {name}` ends it"
        )
    elif project not in (None, there.project):
        raise AnalystError(
            f"{name} reads {there.project or 'every project'}: `meterline analysts remove {name}`, then add it anew"
        )
    analyst = Analyst(name, project or (there.project if there else ""), quota or (there.quota if there else Quota()))
    password = password or secrets.token_urlsafe(24)
    ((database, user),) = clickhouse.query("SELECT currentDatabase(), currentUser()")
    for statement in statements_to_add(analyst, password, database, user):
        _run(clickhouse, statement)
    return analyst, password


def remove_analyst(clickhouse: ClickHouse, name: str) -> None:
    """Remove an analyst. Raises AnalystError where there is none of that name."""
    there = {each.name: each for each in analysts(clickhouse)}
    if name not in there:
        raise AnalystError(f"there is no analyst {name[:64]!r}; there are: {', '.join(there) or 'none'}")
    ((database,),) = clickhouse.query("SELECT currentDatabase()")
    for statement in statements_to_remove(there[name], database):
        _run(clickhouse, statement)


def statements_to_add(analyst: Analyst, password: str, database: str, own_user: str) -> Iterator[str]:
    """Yield the statements that make an analyst of `database`, in an order in which it can read nothing too early.

    The password goes as a salted SHA-256, so it stands in no log. Where a table has a row policy for anyone, a server
    may be set to show nothing to those who have none: so Meterline's `own_user` has one too.
    """
    user, mark, own = map(sql_name, (analyst.name, analyst.mark, _OWN_PREFIX + own_user))
    bounds = "queries = {}, read_rows = {}, execution_time = {}".format(*map(int, analyst.quota))
    quota = f"CREATE QUOTA OR REPLACE {mark} FOR INTERVAL 1 hour MAX {bounds}"
    salt = secrets.token_hex(16)
    digest = sha256((password + salt).encode()).hexdigest()
    which = f"project = {sql_literal(analyst.project)}" if analyst.project else "1"
    yield quota
    yield (
        f"CREATE USER OR REPLACE {user} IDENTIFIED WITH sha256_hash BY '{digest}' SALT '{salt}' "
        f"DEFAULT DATABASE {sql_name(database)} GRANTEES NONE SETTINGS {_SETTINGS}"
    )
    for table in TABLES:
        on = f"{sql_name(database)}.{table}"
        yield f"CREATE ROW POLICY IF NOT EXISTS {own} ON {on} USING 1 AS PERMISSIVE TO {sql_name(own_user)}"
        yield f"CREATE ROW POLICY OR REPLACE {mark} ON {on} USING {which} AS PERMISSIVE TO {user}"
    yield f"{quota} TO {user}"
    for readable in (*TABLES, *VIEWS):
        yield f"GRANT SELECT ON {sql_name(database)}.{readable} TO {user}"


def statements_to_remove(analyst: Analyst, database: str) -> Iterator[str]:
    """Yield the statements that remove an analyst of `database`."""
    mark = sql_name(analyst.mark)
    yield f"DROP USER IF EXISTS {sql_name(analyst.name)}"
    for table in TABLES:
        yield f"DROP ROW POLICY IF EXISTS {mark} ON {sql_name(database)}.{table}"
    yield f"DROP QUOTA IF EXISTS {mark}"


def _asked(clickhouse: ClickHouse, sql: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
    with _told():
        return [tuple(row) for row in clickhouse.query(sql, parameters)]


def _run(clickhouse: ClickHouse, statement: str) -> None:
    with _told():
        clickhouse.command(statement)


@contextmanager
def _told() -> Iterator[None]:
    """Raise AnalystError where ClickHouse says that Meterline's own user may not manage users."""
    try:
        yield
    except DatabaseError as error:
        if error.code != _ACCESS_DENIED:
            raise
        raise AnalystError(
            "the user of METERLINE_CLICKHOUSE_URL may not manage users: give it `access_management` in ClickHouse's "
            "configuration, or the grant ACCESS MANAGEMENT"
        ) from error
