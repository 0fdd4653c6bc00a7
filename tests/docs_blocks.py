"""The code blocks of the project's documents, and a reader who types them in, one after another."""

from __future__ import annotations

import doctest
import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from streams.embedded import lifeline
from streams.settings import PROJECT_ROOT, Settings
from tests.calls import eventually
from tests.client.distributions import constraints

# A role's page, by the role's name: each is read by itself; tests/test_role_pages.py types its commands in.
ROLE_PAGES = {
    "platform engineer": "docs/platform.md",
    "analyst": "docs/analysts.md",
    "finance": "docs/finance.md",
    "operator": "docs/operators.md",
}

# Each page goes on where the one before it ends.
READING_ORDER = (
    "README.md",
    "docs/producers.md",
    "docs/gateways.md",
    "docs/webhooks.md",
    "docs/dashboard.md",
    "docs/portal.md",
    "docs/internals.md",
    "docs/scaling.md",
    "docs/scopes.md",
    "clickhouse/README.md",
)

# Pages that are read by themselves; tests/test_runbook.py types their commands in.
READ_ALONE = ("docs/glossary.md", "docs/runbook.md")

DEMO = "pip install uv && uv run meterline demo"
TEST = "pip install uv && uv run meterline test"
UP = "uv run meterline up"

# What differs from one run to the next in an answer that a document shows.
_VARYING = ("entry_id", "offset", "instance")

_FENCE = re.compile(r"^\s*(`{3,}|~{3,})\s*(\S*)\s*$")
_FILE_NAME = re.compile(r"Put this into `([\w.-]+\.py)`:$")
_COMMAND_SECONDS_MAX = 60.0

# As in docstrings, `...` in an answer stands for what differs from one run to the next, and spaces align.
_ANSWER_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# A line that asks for what the history has.
_QUESTION = re.compile(
    r"uv run meterline "
    r"(audit|usage|events show|dead-letters|holds settled|notices list|webhooks deliveries|credits balance)\b"
)
_ASKED_SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document; `before` is the paragraph that leads up to the block."""

    document: str
    line: int
    language: str
    text: str
    before: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def file_name(self) -> str:
        """The file that a Python block is to be put into, or ""."""
        found = _FILE_NAME.search(self.before)
        return found[1] if found else ""


def someone_new(home: Path) -> dict[str, str]:
    """The environment of someone new: no Meterline state, ports of their own, the downloads that are here."""
    uv_cache = subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    inherited = {name: value for name, value in os.environ.items() if name != "XDG_DATA_HOME"}
    return inherited | {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(Settings().cache_dir.parent),
        "UV_CACHE_DIR": uv_cache,
        "UV_NO_SYNC": "1",
        # A service's own environment is made of the versions that are here.
        "UV_CONSTRAINT": str(constraints(home / "constraints.txt")),
        "UV_PROJECT": str(PROJECT_ROOT),
        "METERLINE_API_PORT": str(lifeline.free_port()),
        "METERLINE_CLICKHOUSE_FRONT_PORT": str(lifeline.free_port()),
    }


def documents() -> list[str]:
    """Every Markdown file of the project, by its path from the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        return sorted({name for name in listed.stdout.splitlines() if (PROJECT_ROOT / name).exists()})
    # A checkout without its history.
    paths = (path.relative_to(PROJECT_ROOT) for path in PROJECT_ROOT.rglob("*.md"))
    return sorted(str(path) for path in paths if not any(part.startswith(".") for part in path.parts))


def text_of(document: str) -> str:
    """A document's text."""
    return (PROJECT_ROOT / document).read_text(encoding="utf-8")


def blocks_of(document: str, text: str | None = None) -> list[Block]:
    """The fenced blocks of a document, in order."""
    blocks: list[Block] = []
    fence, language, begin, before = "", "", 0, ""
    inside: list[str] = []
    is_paragraph = False
    for number, line in enumerate((text_of(document) if text is None else text).splitlines(), start=1):
        found = _FENCE.match(line)
        if not fence and found:
            fence, language, begin, inside = found[1], found[2], number, []
        elif fence and found and not found[2] and found[1].startswith(fence):
            blocks.append(Block(document, begin, language, "\n".join(inside), before))
            fence, before = "", ""
        elif fence:
            inside.append(line)
        elif line.strip():
            before = f"{before} {line.strip()}".strip() if is_paragraph else line.strip()
        is_paragraph = bool(line.strip()) and not fence
    assert not fence, f"{document}:{begin}: this block never ends"
    return blocks


class Terminal:
    """A Terminal has one shell that stays open: a variable that a command sets is there for the commands after it."""

    def __init__(self, directory: Path, env: Mapping[str, str], scratch: Path) -> None:
        self._scratch = scratch
        self._count = 0
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._tell("set -euo pipefail")

    def run(self, commands: str, name: str) -> str:
        """Run commands, and give what they print. Raises AssertionError where one of them fails or takes too long."""
        self._count += 1
        script, out, err = (self._scratch / f"{self._count}.{suffix}" for suffix in ("sh", "out", "err"))
        script.write_text(commands + "\n")
        self._tell(f"source '{script}' </dev/null >'{out}' 2>'{err}'; echo done")
        assert self._shell.stdout is not None
        ready, _, _ = select.select([self._shell.stdout], [], [], _COMMAND_SECONDS_MAX)
        answer = self._shell.stdout.readline() if ready else "took too long"
        assert answer == "done\n", f"{name} {answer or 'failed'}:\n{commands}\n{out.read_text()}\n{err.read_text()}"
        return out.read_text()

    def close(self) -> None:
        """End the shell, and all that still runs in it."""
        with suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.communicate()

    def _tell(self, line: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(line + "\n")
        self._shell.stdin.flush()


@dataclass(frozen=True, slots=True)
class _Running:
    """A block whose program runs on, with its process. `last_words` are what the program logs when it ends well, or ""
    where its exit code tells that."""

    block: Block
    process: lifeline.Child
    log: Path
    last_words: str


class Reader:
    """A Reader reads the documents in order and does what they say, in a directory that looks like a checkout.

    `env` has METERLINE_API_PORT and METERLINE_CLICKHOUSE_FRONT_PORT; these and a free port stand for those that the
    documents name, so that several readers may share a machine. A block that is to run on has a terminal of its own,
    and ends with the reader. Each page of a role begins with `meterline up`: the first that is read starts it, and the
    others find it running, as they say one may.
    """

    def __init__(self, env: Mapping[str, str], directory: Path) -> None:
        self._env = env
        self._checkout = directory / "checkout"
        self._scratch = directory / "scratch"
        for each in (self._checkout, self._scratch):
            each.mkdir()
        for path in PROJECT_ROOT.iterdir():
            if not path.name.startswith("."):
                (self._checkout / path.name).symlink_to(path)
        self.api_url = f"http://127.0.0.1:{env['METERLINE_API_PORT']}"
        self.clickhouse_url = f"http://127.0.0.1:{env['METERLINE_CLICKHOUSE_FRONT_PORT']}/"
        self._service_port = str(lifeline.free_port())
        self._receiver_port = str(lifeline.free_port())
        self._terminal = Terminal(self._checkout, env, self._scratch)
        self._running: list[_Running] = []
        self._printed: dict[str, list[str]] = {}
        self.done: set[Block] = set()

    def read(self, document: str) -> list[str]:
        """Read a document, after those before it that were not read yet; gives what each of its command blocks
        printed."""
        for each in READING_ORDER[: READING_ORDER.index(document) + 1]:
            if each not in self._printed:
                self._printed[each] = self._read(each)
        return self._printed[document]

    def read_alone(self, page: str) -> list[str]:
        """Read a role's page in a terminal of its own, where nothing is set that the page has not set; gives what each
        of its command blocks printed, with what went to standard error. A text block is the answer to that before."""
        self._terminal.close()
        self._terminal = Terminal(self._checkout, self._env, self._scratch)
        return self._read(page, is_role=True)

    @property
    def admin_key(self) -> str:
        """The key that `meterline up` made."""
        return (Path(self._env["HOME"]) / ".local/share/meterline/admin-key").read_text()

    def history(self, sql: str) -> str:
        """The embedded ClickHouse's answer to a query."""
        return httpx.post(self.clickhouse_url, content=self._localised(sql)).text

    def file(self, name: str) -> str:
        """The text of a file that a block has written."""
        return (self._checkout / name).read_text()

    def log_of(self, program: str) -> str:
        """The log so far of the running block that has this text."""
        (found,) = [each.log for each in self._running if program in each.block.text]
        return found.read_text()

    def close(self) -> None:
        """Stop the programs that still run, the newest first. Raises AssertionError where one of them does not end
        well."""
        self._terminal.close()
        codes = [each.process.stop(30) for each in reversed(self._running)]
        for each, code in zip(reversed(self._running), codes, strict=True):
            assert each.last_words in each.log.read_text(), each.log.read_text()
            assert code == 0 or each.last_words, f"{each.block} ends well when it is told to: {each.log.read_text()}"

    def _read(self, document: str, *, is_role: bool = False) -> list[str]:
        printed: list[str] = []
        asked: Block | None = None
        for block in blocks_of(document):
            if block.language == "bash" and block.text not in (DEMO, TEST):
                asked = block
                printed.append(self._command(block, with_errors=is_role))
            elif block.language == "python":
                (self._checkout / block.file_name).write_text(self._localised(block.text) + "\n")
            elif block.language == "json":
                self._compare(block, printed[-1])
            elif block.language == "text" and is_role:
                if asked is not None and _is_question(asked) and not is_answer(block.text, printed[-1]):
                    # The history is a moment behind: whoever asks for it asks once more.
                    printed[-1] = self._asked_again(asked, block)
                assert is_answer(block.text, printed[-1]), f"{block}: this was printed instead:\n{printed[-1]}"
            else:
                continue
            self.done.add(block)
        return printed

    def _command(self, block: Block, *, with_errors: bool) -> str:
        if block.text == UP:
            started = [each for each in self._running if each.block.text == UP]
            return started[0].log.read_text() if started else self._start(block, "Ctrl-C stops it", "")
        if "uvicorn service:app" in block.text:
            # Chosen as late as can be: until then somebody else may take it.
            self._service_port = str(lifeline.free_port())
            return self._start(block, "Uvicorn running", "Application shutdown complete")
        if "uvicorn receiver:app" in block.text:
            return self._start(block, "Uvicorn running", "Application shutdown complete")
        # A person types more slowly than this: let the history catch up first.
        for document, mark, sql, expected in _AFTER:
            if block.document == document and mark in block.text:
                eventually(lambda sql=sql, expected=expected: self.history(sql) == expected)
        commands = self._localised(block.text)
        return self._terminal.run(f"{{ {commands}\n}} 2>&1" if with_errors else commands, str(block))

    def _asked_again(self, asked: Block, shown: Block) -> str:
        """Ask until what is printed is what the document shows, or for some time; gives what was printed last."""
        printed, until = "", time.monotonic() + _ASKED_SECONDS_MAX
        while time.monotonic() < until and not is_answer(shown.text, printed):
            printed = self._command(asked, with_errors=True)
        return printed

    def _start(self, block: Block, ready: str, last_words: str) -> str:
        log = self._scratch / f"running-{len(self._running)}.log"
        # The program itself is what is told to end, not the shell that started it.
        commands = re.sub(r"(uv run|shop/bin/uvicorn)", r"exec \1", self._localised(block.text), count=1)
        script = f"cd '{self._checkout}' && {commands}"
        process = lifeline.start(str(block), ["bash", "-c", script], log_path=log, env=self._env, guarded=True)
        self._running.append(_Running(block, process, log, last_words))
        eventually(lambda: ready in log.read_text() or process.poll() is not None, 120)
        assert process.poll() is None, log.read_text()
        return log.read_text()

    def _compare(self, block: Block, printed: str) -> None:
        """Compare a JSON block with what the commands before it printed, but for what varies."""
        actual, shown = json.loads(printed), json.loads(block.text)
        assert set(actual) == set(shown), block
        assert _steady(actual) == _steady(shown), block

    def _localised(self, text: str) -> str:
        ports = {
            "8080": self._env["METERLINE_API_PORT"],
            "8123": self._env["METERLINE_CLICKHOUSE_FRONT_PORT"],
            "9000": self._service_port,
            "9100": self._receiver_port,
        }
        return re.sub(r"\b(8080|8123|9000|9100)\b", lambda found: ports[found[1]], text)


def _is_question(block: Block) -> bool:
    """Whether a block changes nothing, and so may be typed in once more."""
    return all(_QUESTION.match(line) for line in block.text.splitlines())


def is_answer(shown: str, printed: str) -> bool:
    """Whether a command printed what its document shows; `...` stands for anything, and runs of spaces are alike."""
    return doctest.OutputChecker().check_output(f"{shown}\n", printed, _ANSWER_FLAGS)


_TAKEN = "SELECT count() > 0 FROM deliveries WHERE status = 200 AND is_delivered"


def _charges_of(project: str) -> str:
    return f"SELECT count() FROM facts WHERE project = '{project}' AND kind = 'charge'"


# What the history must hold before a block of a document that has this text is typed in: a question and its answer.
_AFTER: tuple[tuple[str, str, str, str], ...] = (
    ("README.md", "/v1/ledger", "SELECT count() > 0 FROM facts WHERE reason = 'out_of_credits'", "1\n"),
    (
        "docs/gateways.md",
        "job-1",
        "SELECT count() FROM facts WHERE source = '/chat' AND kind IN ('charge', 'refusal')",
        "1000\n",
    ),
    ("docs/webhooks.md", "/taken", _TAKEN, "1\n"),
    ("docs/platform.md", "events show req-1", _charges_of("shop"), "1\n"),
    ("docs/analysts.md", "queries/usage_by_customer.sql", _charges_of("bakery"), "3\n"),
    ("docs/finance.md", "credits amend", _charges_of("studio"), "1\n"),
    ("docs/operators.md", "meterline dead-letters", "SELECT count() > 0 FROM dead_letters", "1\n"),
)


def _steady(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in _VARYING}


def table_of(document: str, first_heading: str) -> dict[str, list[str]]:
    """The rows of the table whose first column has this heading, by their first cell."""
    rows: dict[str, list[str]] = {}
    is_in = False
    for line in text_of(document).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells and cells[0] == first_heading:
            is_in = True
        elif is_in and not cells:
            break
        elif is_in and not set(cells[0]) <= {"-"}:
            rows[cells[0]] = cells[1:]
    return rows
