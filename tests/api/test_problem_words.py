"""Errors are told in their readers' words: of what each reader typed, and of what it can do."""

import json
import re
from typing import Any

import pytest

from api.cli.words import cli_words, command_of, flags_of, takes_file
from schemas.problems import CODES
from streams.client.customer_words import decided_words
from streams.http_answers import problem_of
from streams.settings import PROJECT_ROOT
from tests.api import problem_words
from tests.tidy.commands import WAYS

NO_CUSTOMERS_WORDS = re.compile(
    r"mtl_|METERLINE|[Mm]eterline|ledger|/v1/|/docs|/readyz|admin|price book|intake|Kafka|ClickHouse|operator|receipt"
    r"|[Pp]roject first|the event|worker|cost_|hold_|_id\b|`(?!Idempotency-Key)"
)
NO_COMMANDS_WORDS = re.compile(r"GET |POST |PUT |/v1/|/docs|Idempotency-Key|Authorization|mtl_|event again|`data")


def test_every_error_is_told_in_the_golden_words_of_its_readers() -> None:
    golden = problem_words.GOLDEN.read_text(encoding="utf-8")
    assert golden == problem_words.document(), "python -m tests.api.problem_words writes it anew: read what changed"


def test_the_golden_file_has_each_code_and_each_listed_place() -> None:
    told = {place.code for place in problem_words.places()}
    assert len(told) > 50 and told <= set(CODES)
    golden = problem_words.GOLDEN.read_text(encoding="utf-8")
    assert re.findall(r"^\d{3} (\w+)$", golden, re.MULTILINE) == list(CODES)


def test_no_customer_is_told_the_platforms_own_affairs() -> None:
    golden = problem_words.GOLDEN.read_text(encoding="utf-8")
    told = re.findall(r"^ +customer: (.*)$", golden, re.MULTILINE)
    assert len(told) > len(CODES)
    assert [text for text in told if NO_CUSTOMERS_WORDS.search(text)] == []


def test_no_command_tells_of_requests_headers_and_bodies() -> None:
    golden = problem_words.GOLDEN.read_text(encoding="utf-8")
    told = re.findall(r"^ +cli: (.*)$", golden, re.MULTILINE)
    assert len(told) > 150
    assert [text for text in told if NO_COMMANDS_WORDS.search(text)] == []
    # What stands in quotes is a command; a field would be a flag.
    quoted = {quoted for text in told for quoted in re.findall(r"`([^`]*)`", text)} - {"…"}
    assert quoted and [each for each in quoted if not _is_command(each)] == []


def _is_command(words: str) -> bool:
    """Whether these words call a command, and not a whole group of them."""
    found = command_of(words.removeprefix("meterline ").split())
    return words.split()[0] in ("meterline", "projects") and not getattr(found, "commands", None)


@pytest.mark.parametrize("code", CODES)
def test_what_an_unknown_place_says_reaches_no_customer(code: str) -> None:
    """A detail that a later version or another process adds is told only where it is about the customer's credits."""
    told = decided_words(code, "`data.secret` of mtl_live_1 in the ledger")
    if code not in ("out_of_credits", "plan_required", "over_cost_ceiling", "project_closed", "rate_limited"):
        assert "secret" not in told.detail and "mtl_" not in told.detail


def commands_with_fields() -> list[Any]:
    """The commands that call a route, each with the fields of the route's body and the names of its parameters."""
    document = json.loads((PROJECT_ROOT / "api" / "openapi.json").read_text(encoding="utf-8"))
    found = []
    for way in WAYS.values():
        if way.route and way.cli:
            method, path = way.route.split()
            call = document["paths"][path][method.lower()]
            fields = {each["name"] for each in call.get("parameters", [])}
            for content in call.get("requestBody", {}).get("content", {}).values():
                name = content["schema"].get("$ref", "").rpartition("/")[2]
                fields |= set(document["components"]["schemas"].get(name, {}).get("properties", {}))
            found.append(pytest.param(way.cli, sorted(fields), id=way.cli))
    return found


@pytest.mark.parametrize(("cli", "fields"), commands_with_fields())
def test_a_command_names_its_flags_and_no_field_that_nobody_typed(cli: str, fields: list[str]) -> None:
    command = command_of(cli.split())
    flags = flags_of(command)
    for field in fields:
        problem = problem_of("req_1", "invalid_request", f"`{field}`: too long", field=field)
        said = cli_words(problem, flags, has_file=takes_file(command))
        named = re.findall(r"`([\w-]+)`|\(([\w-]+)\)", said)
        flag = next((flag for flag in flags.values() if flag in said), "")
        assert not named or takes_file(command), said
        assert flag or takes_file(command) or said.startswith("invalid_request: Invalid request."), said


@pytest.mark.parametrize(
    ("cli", "field", "said"),
    [
        ("credits top-up", "bundle_usd", "the argument bundle"),
        ("credits grant", "expires_at", "--expires-at"),
        ("credits auto-recharge", "cap_usd", "--cap"),
        ("limits raise", "ends_at", "--until"),
        ("limits set", "requests_per_minute", "--requests"),
        ("holds place", "hold_seconds", "--seconds"),
        ("prices announce", "rates.image", "rates.image"),
        ("audit list", "cursor", "--cursor"),
    ],
)
def test_a_field_is_named_by_its_flag(cli: str, field: str, said: str) -> None:
    command = command_of(cli.split())
    problem = problem_of("req_1", "invalid_request", "It is out of range", field=field)
    words = cli_words(problem, flags_of(command), has_file=takes_file(command))
    assert words == f"invalid_request: It is out of range ({said}). Correct what is named, and run the command again."


def test_an_answer_of_another_version_is_told_as_it_is() -> None:
    problem = {"code": "from_the_future", "detail": "Something new. Do this."}
    assert cli_words(problem, {}) == "from_the_future: Something new. Do this."
