"""Analysts of a server. No server is here, and the embedded engine keeps no users that SQL makes: so their statements
are parsed by the engine and never carried out, and what they give is tried on its own user, by its configuration."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from streams.clickhouse.analysts import (
    Analyst,
    AnalystError,
    Quota,
    check_names,
    statements_to_add,
    statements_to_remove,
)
from streams.clickhouse.client import ClickHouse
from streams.settings import PROJECT_ROOT
from tests.clickhouse import rights as asking
from tests.command_line import Meterline

PASSWORD = "a password of its own"
ADA = Analyst("ada", "acme", Quota(10, 20, 30))
DENIED = "Code: 497"


def formatted(engine: ClickHouse, statements: list[str]) -> list[str]:
    """The statements in the engine's own words, each parsed by itself."""
    asked = [engine.query("SELECT formatQuerySingleLine({sql:String})", {"sql": each}) for each in statements]
    return [row[0] for ((row),) in asked]


def test_the_statements_are_clickhouses_and_give_no_more_than_reading(engine: ClickHouse) -> None:
    made = formatted(engine, list(statements_to_add(ADA, PASSWORD, "meter", "owner")))
    kinds = [re.match(r"CREATE (QUOTA|USER|ROW POLICY)|GRANT", each) for each in made]
    assert all(kinds)
    grants = [each for each in made if each.startswith("GRANT")]
    assert grants == [
        f"GRANT SELECT ON meter.{name} TO ada"
        for name in ("facts", "backfilled", "dead_letters", "deliveries", "usage", "charges", "ledger_entries")
    ]
    # Until its policies and its quota are there, it may read nothing.
    assert made[-len(grants) :] == grants
    policies = [each for each in made if "ROW POLICY" in each]
    assert [each for each in policies if each.endswith("USING project = 'acme' TO ada")] == policies[1::2]
    assert [each for each in policies if each.endswith("USING 1 TO owner")] == policies[::2]
    (user,) = [each for each in made if each.startswith("CREATE USER")]
    assert "SETTINGS readonly = 1, max_execution_time = 60 MIN 1 MAX 300 CHANGEABLE_IN_READONLY" in user
    assert made[0].endswith("INTERVAL 1 hour MAX queries = 10, read_rows = 20, execution_time = 30")
    assert f"{made[0]} TO ada" in made
    assert formatted(engine, list(statements_to_remove(ADA, "meter"))) == [
        "DROP USER IF EXISTS ada",
        "DROP ROW POLICY IF EXISTS `meterline_analyst_ada@acme` ON meter.facts",
        "DROP ROW POLICY IF EXISTS `meterline_analyst_ada@acme` ON meter.backfilled",
        "DROP ROW POLICY IF EXISTS `meterline_analyst_ada@acme` ON meter.dead_letters",
        "DROP ROW POLICY IF EXISTS `meterline_analyst_ada@acme` ON meter.deliveries",
        "DROP QUOTA IF EXISTS `meterline_analyst_ada@acme`",
    ]
    everyone = formatted(engine, list(statements_to_add(Analyst("bob", "", Quota()), PASSWORD, "a`b'c", "o'w")))
    assert any(each.endswith(r"ON `a\`b'c`.facts AS PERMISSIVE FOR SELECT USING 1 TO bob") for each in everyone)


def test_a_password_goes_as_a_salted_hash(engine: ClickHouse) -> None:
    made, again = (" ".join(statements_to_add(ADA, PASSWORD, "meter", "owner")) for _ in range(2))
    assert PASSWORD not in made
    digest, salt = re.findall(r"sha256_hash BY '(\w{64})' SALT '(\w{32})'", made)[0]
    assert digest == sha256((PASSWORD + salt).encode()).hexdigest()
    assert made != again, "another salt"


def test_what_an_analyst_is_given_shows_one_projects_rows_and_changes_nothing(tmp_path: Path) -> None:
    statements = list(statements_to_add(ADA, PASSWORD, "default", "owner"))
    rights = [each.partition(" TO ")[0] for each in statements if each.startswith("GRANT")]
    policies = [re.search(r"ON `default`\.(\w+) USING (project .*) AS", each) for each in statements]
    filters = "".join(f"<{found[1]}><filter>{found[2]}</filter></{found[1]}>" for found in policies if found)
    config = tmp_path / "analyst.xml"
    text = (PROJECT_ROOT / "clickhouse" / "embedded.xml").read_text().replace("embedded.xml", config.name)
    given = "".join(f"<query>{each}</query>" for each in [*rights, "GRANT owner"])
    text = re.sub(r"(<default>\s*<password/>.*?<grants>).*?(</grants>)", rf"\1{given}\2", text, flags=re.DOTALL)
    text = text.replace(
        "</default>\n    </users>", f"<databases><default>{filters}</default></databases></default></users>"
    )
    config.write_text(text)
    command = [sys.executable, "-m", asking.__name__, str(config), str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert {name: rows for name, rows in found.items() if isinstance(rows, list)} == {
        "facts": [["acme"]],
        "count": [[1]],
        "newest": [[1]],
        "backfilled": [["acme", 1]],
        "usage": [["acme", 39]],
        "charges": [["acme", 1]],
        "ledger_entries": [["acme", -32000000]],
        "dead_letters": [["acme", 1]],
        "deliveries": [["acme", 1]],
        "by_project": [["acme", "2026-01-06 11:45:00", -32000000]],
        "by_operation": [["2026-01-06 11:45:00", "image", -32000000]],
        "marks": [[0, [0, 0]]],
        "another's": [[1]],
        "merge": [[1]],
    }
    refused = {name: error for name, error in found.items() if not isinstance(error, list)}
    assert all(DENIED in error for error in refused.values()), refused


@pytest.mark.parametrize(
    ("name", "project", "password", "said"),
    [
        ("Ada", None, None, "a small letter, then"),
        ("ada'--", None, None, "a small letter, then"),
        ("a" * 64, None, None, "up to 62"),
        ("ada@acme", None, None, "digits, _ and -"),
        ("ada", "a' OR 1", None, "a project's id has"),
        ("ada", None, "short", "12 characters at least"),
    ],
)
def test_a_name_is_of_few_characters(name: str, project: str | None, password: str | None, said: str) -> None:
    with pytest.raises(AnalystError, match=said):
        check_names(name, project, password)


def test_a_laptop_is_told_what_it_has_instead(meterline: Meterline, tmp_path: Path) -> None:
    for words in (("add", "ada"), ("list",), ("remove", "ada")):
        done = meterline("analysts", *words, METERLINE_DATA_DIR=str(tmp_path), METERLINE_CLICKHOUSE_URL="")
        assert done.returncode == 1 and "has no users: analysts of a laptop ask its HTTP front" in done.stderr
        assert str(tmp_path / "clickhouse-token") in done.stderr and done.stdout == ""


def test_the_commands_ask_a_server_by_http(meterline: Meterline, over_http: ClickHouse, tmp_path: Path) -> None:
    """The embedded engine stands for a server until it has nowhere to keep a user."""
    here = {"METERLINE_DATA_DIR": str(tmp_path), "METERLINE_CLICKHOUSE_URL": over_http._settings.clickhouse_url or ""}
    assert json.loads(meterline("analysts", "list", "--json", **here).stdout) == {"analysts": []}
    gone = meterline("analysts", "remove", "ada", **here)
    assert (gone.returncode, gone.stderr) == (1, "error: there is no analyst 'ada'; there are: none\n")
    taken = meterline("analysts", "add", "default", **here)
    assert taken.returncode == 1 and "a user default that is no analyst of Meterline's" in taken.stderr
    added = meterline("analysts", "add", "ada", "--project", "acme", **here)
    assert added.returncode == 1 and "Could not insert quota `meterline_analyst_ada@acme`" in added.stderr
    unset = meterline("analysts", "add", "ada", "--password-from", "NOWHERE", **here)
    assert unset.returncode == 1 and "NOWHERE is not set" in unset.stderr
