"""Commands that can't be undone ask first: nothing happens before a word is typed, without a terminal it needs `--yes`,
and a dry run shows the same and changes nothing."""

from __future__ import annotations

import json
import os
import pty
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api.stack import Stack
from tests.calls import Operator, eventually
from tests.command_line import Done, Meterline

Ask = Callable[..., Done]


@pytest.fixture
def meterline_here(stack: Stack, meterline: Meterline) -> Ask:
    """A function that runs a command on the running stack, at no terminal."""

    def run(*argv: str) -> Done:
        return meterline(*argv, METERLINE_DATA_DIR=str(stack.settings.data_dir))

    return run


@pytest.fixture
def typed(meterline_here: Ask, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """A function that runs a command at a terminal, where somebody types `word`."""
    ends = pty.openpty()

    def run(*argv: str, word: str) -> Done:
        os.write(ends[0], f"{word}\n".encode())
        with open(os.dup(ends[1])) as terminal, monkeypatch.context() as here:
            here.setattr("sys.stdin", terminal)
            return meterline_here(*argv)

    yield run
    for end in ends:
        os.close(end)


class Owned:
    """Belongings that an operator can lose: a project with a bundle, a key and a charged event."""

    def __init__(self, operator: Operator, folder: Path) -> None:
        self.http = operator.http
        self.project, client = operator.customer("hobby")
        self.key_id = operator.key(self.project)["key_id"]
        bundle = operator.http.post(f"/v1/admin/projects/{self.project}/top-ups", json={"bundle_usd": 20})
        assert bundle.status_code == 201
        used = client.post("/v1/admissions", json={"operation": "image", "source": "/shop", "id": "e1"})
        assert used.status_code == 200
        self.grant = client.get("/v1/balance").json()["top_ups"][0]["grant_id"]
        ledger = f"/v1/ledger?project={self.project}"
        eventually(lambda: len(self.http.get(ledger).json()["entries"]) == 3)
        self.book = folder / "book.json"
        self.announced, self.version = (f"v{secrets.token_hex(4)}" for _ in range(2))
        books = [
            {
                "version": version,
                "effective_at": (datetime.now(UTC) + timedelta(days=days)).isoformat(),
                "rates": {f"op.{secrets.token_hex(3)}": "1"},
            }
            for version, days in ((self.announced, 36_500), (self.version, 36_501))
        ]
        assert operator.http.post("/v1/admin/price-books", json=books[0]).status_code == 201
        self.book.write_text(json.dumps(books[1]))

    def commands(self) -> dict[str, tuple[list[str], str]]:
        """The commands that ask, each with what it shows of the change."""
        event = [self.project, "/shop", "e1", "--reason", "asked"]
        now = datetime.now(UTC).isoformat()
        late = [self.project, "/shop", "e2", "--operation", "image", "--occurred-at", now, "--reason", "asked"]
        return {
            "credits refund": (["credits", "refund", self.project, self.grant], "to give back: $20.00"),
            "credits void": (["credits", "void", *event], "available in production: 8968 now, 9000 then"),
            "credits amend": (["credits", "amend", *event, "--operation", "chat.message"], "8968 now, 8999 then"),
            "credits bill-late": (["credits", "bill-late", *late], "8968 now, 8936 then"),
            "projects plan": (["projects", "plan", self.project, "build"], "due: $94.00"),
            "projects close": (["projects", "close", self.project], "project.closed"),
            "keys revoke": (["keys", "revoke", self.project, self.key_id], f"key.revoked: {self.key_id}"),
            "keys rotate": (["keys", "rotate", self.project, self.key_id, "--grace", "90s"], "key.rotated"),
            "prices withdraw": (["prices", "withdraw", self.announced], self.announced),
            "prices announce": (["prices", "announce", str(self.book)], self.version),
        }

    def state(self) -> Any:
        """The state of all that these commands may change."""
        balance = self.http.get("/v1/balance", params={"project": self.project}).json()
        project = self.http.get(f"/v1/admin/projects/{self.project}").json()
        books = self.http.get("/v1/prices/changelog").json()["books"]
        return balance["available"], balance["top_ups"], project, [each["version"] for each in books]


@pytest.fixture(scope="module")
def owned(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owned]:
    """Belongings that these tests share, and do not lose before the last of them."""
    found = Owned(operator, tmp_path_factory.mktemp("book"))
    yield found
    # No other test could announce a book that takes effect before it.
    operator.http.delete(f"/v1/admin/price-books/{found.announced}")


def test_without_a_terminal_it_is_refused_with_the_remedy_and_nothing_is_done(
    owned: Owned, meterline_here: Ask
) -> None:
    before = owned.state()
    for name, (argv, _) in owned.commands().items():
        done = meterline_here(*argv)
        assert (done.returncode, done.stdout) == (2, ""), name
        assert "--yes" in done.stderr and "--dry-run" in done.stderr, name
    assert owned.state() == before


def test_a_dry_run_shows_what_would_change_and_changes_nothing(owned: Owned, meterline_here: Ask) -> None:
    before = owned.state()
    for name, (argv, shown) in owned.commands().items():
        for more in ((), ("--yes",)):
            done = meterline_here(*argv, "--dry-run", *more)
            assert done.returncode == 0, f"{name}: {done.stderr}"
            assert shown in done.stdout, f"{name}: {done.stdout}"
        assert json.loads(meterline_here(*argv, "--dry-run", "--json").stdout), name
    assert owned.state() == before
    assert "you pay it back" in meterline_here(*owned.commands()["credits refund"][0], "--dry-run").stdout


def test_a_dry_run_tells_what_would_be_refused(owned: Owned, meterline_here: Ask, tmp_path: Path) -> None:
    book = json.loads(owned.book.read_text()) | {"rates": {"image": "33"}}
    soon = tmp_path / "soon.json"
    soon.write_text(json.dumps(book | {"effective_at": (datetime.now(UTC) + timedelta(days=3)).isoformat()}))
    for argv, code in (
        (["prices", "announce", str(soon)], "It must take effect after version"),
        (["credits", "refund", owned.project, "nothing"], "unknown_grant"),
        (["credits", "void", owned.project, "/shop", "nothing", "--reason", "asked"], "unknown_event"),
        (["keys", "revoke", owned.project, "nothing"], "unknown_key"),
        (["keys", "rotate", owned.project, "nothing"], "unknown_key"),
        (["prices", "withdraw", "2026-01"], "unknown_price_book"),
        (["projects", "close", "prj_nobody"], "unknown_project"),
    ):
        done = meterline_here(*argv, "--dry-run")
        assert (done.returncode, done.stdout) == (1, "") and code in done.stderr, done.stderr


def test_at_a_terminal_only_the_right_word_does_it(owned: Owned, typed: Ask) -> None:
    before = owned.state()
    for name, (argv, shown) in owned.commands().items():
        done = typed(*argv, word="yes")
        assert (done.returncode, done.stdout) == (1, ""), name
        assert shown in done.stderr and "nothing was changed" in done.stderr, f"{name}: {done.stderr}"
    assert owned.state() == before
    assert "withdrawn_at: 2" in typed(*owned.commands()["prices withdraw"][0], word="withdraw").stdout
    # The closing comes last: a closed project's plan can't be changed.
    argv = owned.commands()["projects close"][0]
    done = typed(*argv, word="close")
    assert done.returncode == 0, done.stderr
    assert "closed_at: 2" in done.stdout and len(done.stdout.splitlines()) <= 5
