"""Commands are whole: each has all its parts, from its shape to its page, and a missing one is named."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.tidy.sources import functions, names_used, parsed, read, sources


class Way(NamedTuple):
    """The way into Meterline of a command: the file that sends it, the route and the CLI command that lead there.

    Without a route or a CLI command, `why_none` says why.
    """

    sent_by: str
    route: str = ""
    cli: str = ""
    why_none: str = ""


_PROJECT = "/v1/admin/projects/{project}"
_ENDPOINT = "/v1/webhook-endpoints/{endpoint_id}"

WAYS: Mapping[str, Way] = {
    "CreateProject": Way("api/routes/projects.py", "POST /v1/admin/projects", "projects create"),
    "CloseProject": Way("api/routes/projects.py", f"PUT {_PROJECT}/state", "projects close"),
    "ReopenProject": Way("api/routes/projects.py", f"PUT {_PROJECT}/state", "projects reopen"),
    "ChangePlan": Way("api/routes/projects.py", f"PUT {_PROJECT}/plan", "projects plan"),
    "SetStanding": Way("api/routes/projects.py", f"PUT {_PROJECT}/standing", "projects standing"),
    "SetBadge": Way("api/routes/projects.py", f"PUT {_PROJECT}/badge", "projects badge"),
    "Erase": Way(
        "api/routes/erasures.py",
        f"POST {_PROJECT}/erasures",
        why_none="`meterline erase` is no command of a group, and waits until ClickHouse has done it",
    ),
    "OpenPortal": Way("api/dashboard/views/portal.py", why_none="whoever has a portal link opens it in a browser"),
    "EndPortals": Way("api/routes/portals.py", f"DELETE {_PROJECT}/portal-links", "portals end"),
    "CreateKey": Way("api/routes/keys.py", f"POST {_PROJECT}/keys", "keys create"),
    "RevokeKey": Way("api/routes/keys.py", f"DELETE {_PROJECT}/keys/{{key_id}}", "keys revoke"),
    "RotateKey": Way("api/routes/keys.py", f"POST {_PROJECT}/keys/{{key_id}}/rotation", "keys rotate"),
    "TopUp": Way("api/routes/credits.py", f"POST {_PROJECT}/top-ups", "credits top-up"),
    "SetNoticeRules": Way("api/routes/notices.py", "PUT /v1/notice-rules", "notices set-rules"),
    "RefundTopUp": Way("api/routes/credits.py", f"POST {_PROJECT}/refunds", "credits refund"),
    "GrantPromotional": Way("api/routes/credits.py", f"POST {_PROJECT}/grants", "credits grant"),
    "SetAutoRecharge": Way("api/routes/credits.py", f"PUT {_PROJECT}/auto-recharge", "credits auto-recharge"),
    "SettleRecharge": Way("streams/cashier/purchases.py", why_none="the cashier alone knows what became of a purchase"),
    "Correct": Way("streams/history/corrections.py", f"POST {_PROJECT}/corrections", "credits amend"),
    "Admit": Way("api/routes/admissions.py", "POST /v1/admissions", "holds place"),
    "CountRequest": Way("api/callers/calls.py", why_none="the API sends it for each of its own calls"),
    "CountRefused": Way("api/refusals.py", why_none="the API sends it for what it refuses by itself"),
    "CaptureHold": Way("api/routes/holds.py", "POST /v1/holds/{hold_id}/capture", "holds capture"),
    "ReleaseHold": Way("api/routes/holds.py", "POST /v1/holds/{hold_id}/release", "holds release"),
    "ExtendHold": Way("api/routes/holds.py", "POST /v1/holds/{hold_id}/extend", "holds extend"),
    "SetItem": Way("api/routes/items.py", f"PUT {_PROJECT}/items/{{item}}", "projects item"),
    "SetLimits": Way("api/routes/limits.py", f"PUT {_PROJECT}/limits", "limits set"),
    "RaiseLimits": Way("api/routes/limits.py", f"POST {_PROJECT}/limit-raises", "limits raise"),
    "EndRaise": Way("api/routes/limits.py", f"DELETE {_PROJECT}/limit-raises/{{raise_id}}", "limits end-raise"),
    "SetBillingAccount": Way("api/routes/invoices.py", f"PUT {_PROJECT}/billing-account", "billing assign"),
    "OpenBillingAccount": Way("api/routes/invoices.py", "POST /v1/admin/billing-accounts", "billing create"),
    "PublishPrices": Way("streams/state/price_broadcast.py", "POST /v1/admin/price-books", "prices announce"),
    "WithdrawPrices": Way(
        "streams/state/price_broadcast.py", "DELETE /v1/admin/price-books/{version}", "prices withdraw"
    ),
    "PutEndpoint": Way("api/routes/webhooks.py", "POST /v1/webhook-endpoints", "webhooks add"),
    "RotateEndpoint": Way("api/routes/webhooks.py", f"POST {_ENDPOINT}/rotate", "webhooks rotate"),
    "DeleteEndpoint": Way("api/routes/webhooks.py", f"DELETE {_ENDPOINT}", "webhooks remove"),
    "TestEndpoint": Way("api/routes/webhooks.py", f"POST {_ENDPOINT}/test", "webhooks test"),
    "ReplayNotices": Way("api/routes/webhooks.py", f"POST {_ENDPOINT}/replay", "webhooks replay"),
    "DisableEndpoint": Way("streams/courier/deliverer.py", why_none="the courier alone knows how an endpoint fares"),
    "BillDelivery": Way("streams/courier/deliverer.py", why_none="the courier sends it for each of its retries"),
}

SHAPES = "schemas/commands.py"
DECISIONS = "streams/core/decisions.py"
RULES = "tests/core/ledger_machine/rules.py"
MODEL = "tests/simulation/model/decisions.py"
CLIENTS = "tests/simulation/clients.py"
# What the machine and the simulation both ask.
ASKS = ("tests/simulation/endpoint_clients.py", "tests/simulation/portal_clients.py")
DOCUMENT = "api/openapi.json"
TABLE = "tests/tidy/commands.py"


def commands(root: Path) -> list[str]:
    """The command classes of a tree, in order."""
    tree = parsed(read(root, SHAPES))
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "Command" for base in node.bases)
    ]


def missing_parts(root: Path, ways: Mapping[str, Way]) -> list[str]:
    """The parts that commands of a tree lack, each with its file; and the ways of commands that are gone."""
    found = commands(root)
    gone = [f"{TABLE} has a way of {name}, which is no command" for name in ways if name not in found]
    return gone + [complaint for name in found for complaint in _missing(root, name, ways.get(name))]


def _missing(root: Path, command: str, way: Way | None) -> Iterator[str]:
    if command not in _union(root):
        yield f"{SHAPES} lacks {command} in AnyCommand"
    if command not in _decided(root):
        yield f"{DECISIONS} lacks a rule for {command} in _DECISIONS"
    if not _is_in_a_test_of_the_core(root, command):
        yield f"tests/core/ lacks a test file that has {command}"
    for path, what in (
        (RULES, "a rule of the ledger machine that sends"),
        (MODEL, "a case of the model for"),
        (CLIENTS, "a client of the simulation that sends"),
    ):
        paths = (path, *ASKS) if path in (RULES, CLIENTS) else (path,)
        if not any(command in names_used(parsed(read(root, each))) for each in paths):
            yield f"{path} lacks {what} {command}"
    if way is None:
        yield f"{TABLE} lacks the way of {command}: who sends it, its route and its CLI command, or why it has none"
        return
    if not _makes(root, way.sent_by, command):
        yield f"{way.sent_by} lacks a place that makes {command}"
    if not (way.route and way.cli) and not way.why_none:
        yield f"{TABLE} lacks a route or a CLI command of {command}, or the reason why it has none"
    if way.route:
        yield from _missing_route(root, command, way.route)
    if way.cli:
        yield from _missing_cli(root, command, way)
    if way.route and way.cli and not _is_documented(root, way):
        yield f"docs/ and CHANGELOG.md lack a word on {command}: `meterline {way.cli}` or {way.route}"


def _missing_route(root: Path, command: str, route: str) -> Iterator[str]:
    method, path = route.split()
    operation = json.loads(read(root, DOCUMENT) or "{}").get("paths", {}).get(path, {}).get(method.lower())
    if operation is None:
        yield f"{DOCUMENT} lacks {route} of {command}: write the route, then `uv run python -m api.openapi_document`"
    elif not operation.get("description"):
        yield f"{DOCUMENT} lacks a description of {route}: its function in api/routes/ needs a docstring"


def _missing_cli(root: Path, command: str, way: Way) -> Iterator[str]:
    """A group of the CLI is a file of its name; its function calls the route, with anything in the path's braces."""
    group, name = way.cli.split()
    path = f"api/cli/{group}.py"
    tree = parsed(read(root, path))
    help_by_name = _help(tree)
    if name not in help_by_name:
        yield f"{path} lacks the command {name!r} of {command}"
    elif not help_by_name[name]:
        yield f"{path} lacks a docstring of the command {name!r}, which is its help"
    elif way.route and re.sub(r"\{\w+\}", "{}", way.route.split()[1]) not in _texts(tree):
        yield f"{path} lacks a call of {way.route} for {command}"


def _union(root: Path) -> set[str]:
    for node in parsed(read(root, SHAPES)).body:
        if isinstance(node, ast.Assign) and [name for name in names_used(node) if name == "AnyCommand"]:
            return names_used(node.value)
    return set()


def _decided(root: Path) -> set[str]:
    """The commands with a rule: the keys of `_DECISIONS`, and those that `command_reply` asks for by their class."""
    found = set()
    for node in ast.walk(parsed(read(root, DECISIONS))):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.value, ast.Dict)
            and "_DECISIONS" in names_used(node.target)
        ):
            found |= {key.id for key in node.value.keys if isinstance(key, ast.Name)}
        if isinstance(node, ast.If) and isinstance(node.test, ast.Call) and "isinstance" in names_used(node.test.func):
            found |= names_used(node.test.args[1])
    return found


def _is_in_a_test_of_the_core(root: Path, command: str) -> bool:
    files = sources(root, "tests/core")
    return any(command in names_used(file.tree) for file in files if "/ledger_machine/" not in file.path)


def _makes(root: Path, path: str, command: str) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == command
        for node in ast.walk(parsed(read(root, path)))
    )


def _help(tree: ast.AST) -> dict[str, str | None]:
    """The docstrings of the functions under `@app.command("name")`, by name."""
    return {
        ast.literal_eval(decorator.args[0]): ast.get_docstring(function)
        for function in functions(tree)
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call) and decorator.args and ast.unparse(decorator.func) == "app.command"
    }


def _texts(tree: ast.AST) -> set[str]:
    """The texts of a file; of an f-string with {} for each value."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.add("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def _is_documented(root: Path, way: Way) -> bool:
    """Whether a page names the route or the CLI's group; `--help` and the API's `/docs` say the rest."""
    pages = [read(root, "README.md"), read(root, "CHANGELOG.md")]
    pages += [path.read_text(encoding="utf-8") for path in sorted((root / "docs").glob("*.md"))]
    group, path = way.cli.split()[0], way.route.split()[1]
    return any(f"meterline {group}" in page or path in page for page in pages)
