"""The commands of the CLI agree with each other: every one is looked at, and a new one has to."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.test_cli_failures import leaves

LEAVES = {" ".join(words): command for words, command in leaves()}

# Commands that print no answer: they run until they are stopped.
RUN_ON = {"up", "worker", "api", "historian", "cashier", "courier"}
# Commands whose --format has JSON among others.
WITH_FORMAT = {"billing invoice", "billing statement"}
# Lists without pages, and what bounds them.
SHORT_LISTS = {
    "prices list": "500 operations",
    "prices changelog": "200 price books, read page by page",
    "keys list": "100 keys a project",
    "projects items": "10 recurring items",
    "notices rules": "24 rules",
    "billing months": "one line a month",
    "analysts list": "one line an analyst",
    "webhooks list": "8 endpoints",
}
LISTS = {
    "notices list",
    "audit list",
    "audit keys",
    "billing list",
    "dead-letters",
    "holds list",
    "holds settled",
    "ledger",
    "projects list",
    "usage",
}
LISTS |= {"webhooks deliveries"}
# Commands that ask first, since no other command takes back what they do.
ASKS = {
    "credits refund",
    "credits void",
    "credits amend",
    "credits bill-late",
    "projects plan",
    "projects close",
    "keys rotate",
    "keys revoke",
    "prices announce",
    "prices withdraw",
    "erase",
}
# Commands that may be tried first, and do not ask: what they do can be undone.
TRIED = {"billing assign"}
# Commands that change something and do not ask: how it is undone, or why it need not be.
UNDONE_BY = {
    "projects create": "it costs nothing on the free plan; `projects close` ends it",
    "projects reopen": "projects close",
    "projects standing": "projects standing",
    "projects badge": "projects badge",
    "projects item": "projects item",
    "credits top-up": "credits refund",
    "credits grant": "it gives, takes nothing, and ends by itself",
    "credits auto-recharge": "credits auto-recharge --off",
    "holds place": "holds release",
    "holds capture": "credits void",
    "holds release": "holds place",
    "holds extend": "holds extend, holds release",
    "limits set": "limits set",
    "limits shadow": "limits shadow --end",
    "limits raise": "limits end-raise",
    "limits end-raise": "limits raise",
    "notices set-rules": "notices set-rules",
    "billing create": "it has no project, and costs nothing",
    "billing assign": "billing assign",
    "billing change": "billing change",
    "keys create": "keys revoke",
    "keys admin": "the key counts only once its hash is set",
    "topics": "it makes what is missing, and no more",
    "migrate": "it only adds",
    "backfill": "it only adds to the history, and each use once",
    "history promote": "history demote",
    "history demote": "history promote",
    "webhooks add": "webhooks remove",
    "webhooks change": "webhooks change",
    "webhooks pause": "webhooks resume",
    "webhooks resume": "webhooks pause",
    "webhooks rotate": "for a day the secret before it signs too",
    "webhooks remove": "webhooks add, with another secret",
    "webhooks test": "it tells nothing, and costs nothing",
    "webhooks replay": "each notice has the id that it had, by which its receiver knows it",
    "portals link": "portals end",
    "portals end": "portals link, for whoever is still to look",
    "analysts add": "analysts remove",
    "analysts remove": "analysts add, with another password",
}
READS = {
    "replay",
    "history promoted",
    "analysts list",
    "verify",
    "explain",
    "rehearse",
    "doctor",
    "ready",
    "limits show",
    "prices list",
    "prices changelog",
    "projects show",
    "projects items",
    "notices rules",
    "credits balance",
    "keys list",
    "billing show",
    "billing invoice",
    "billing statement",
    "billing months",
    "export",
    "events show",
    "webhooks show",
    "webhooks health",
    "webhooks list",
    "status",
    *LISTS,
}
VERBS = {
    "Add",
    "Amend",
    "Announce",
    "Bill",
    "Bring",
    "Capture",
    "Change",
    "Check",
    "Close",
    "Create",
    "Export",
    "Extend",
    "End",
    "Erase",
    "Give",
    "Grant",
    "Hold",
    "List",
    "Load",
    "Make",
    "Open",
    "Pause",
    "Print",
    "Put",
    "Raise",
    "Read",
    "Reconcile",
    "Refund",
    "Release",
    "Remove",
    "Reopen",
    "Replay",
    "Resume",
    "Revoke",
    "Rotate",
    "Run",
    "Say",
    "Send",
    "Set",
    "Show",
    "Start",
    "Take",
    "Turn",
    "Void",
    "Withdraw",
}


def options(command: Any) -> dict[str, Any]:
    """The options of a command by each of their names."""
    return {
        name: each
        for each in command.params
        if each.param_type_name == "option"
        for name in (*each.opts, *each.secondary_opts)
    }


def meaning(option: Any) -> str:
    """The meaning of an option: what its help says before a semicolon, behind which is what is special to a command."""
    return (option.help or "").split(";")[0].rstrip(".")


@pytest.mark.parametrize("name", LEAVES)
def test_a_command_says_what_it_does_by_a_verb_and_each_option_what_it_means(name: str) -> None:
    command = LEAVES[name]
    assert command.help and command.help.split()[0] in VERBS, command.help
    assert not [each.name for each in command.params if each.param_type_name == "option" and not each.help]


@pytest.mark.parametrize("name", LEAVES)
def test_a_command_asks_first_or_says_how_it_is_undone_or_only_reads(name: str) -> None:
    given = options(LEAVES[name])
    assert ("--yes" in given) == (name in ASKS), name
    assert ("--dry-run" in given) == (name in ASKS | TRIED), name
    assert [name in each for each in (ASKS, UNDONE_BY, READS, RUN_ON)].count(True) == 1, name


@pytest.mark.parametrize("name", LEAVES)
def test_a_command_prints_json_and_a_long_list_comes_in_pages(name: str) -> None:
    given = options(LEAVES[name])
    assert ("--json" in given) == (name not in RUN_ON | WITH_FORMAT), name
    assert ({"--limit", "--cursor"} <= given.keys()) == (name in LISTS), name
    if name.endswith((" list", " items", " months", " changelog")):
        assert name in LISTS or name in SHORT_LISTS, f"{name} needs --limit and --cursor, or a bound"


def test_the_same_option_means_the_same_in_every_command() -> None:
    meanings: dict[str, dict[str, str]] = {}
    for name, command in LEAVES.items():
        for option, each in options(command).items():
            meanings.setdefault(option, {})[name] = meaning(each)
    differing = {option: said for option, said in meanings.items() if len(set(said.values())) > 1}
    assert not differing, "\n".join(f"{option}: {said}" for option, said in differing.items())


def test_the_tables_have_no_command_that_is_gone() -> None:
    assert not (ASKS | UNDONE_BY.keys() | READS | RUN_ON | WITH_FORMAT | SHORT_LISTS.keys()) - LEAVES.keys()
