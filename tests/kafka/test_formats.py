"""Stored shapes bear the number of their format: golden bytes of each decode for good, and another version's stop a
process in one sentence."""

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.foreign import UnreadableError
from streams.embedded import lifeline
from streams.errors import EXIT_LASTING
from streams.kafka import formats
from streams.kafka.codecs import VERSION_BYTES, decode_intake
from streams.kafka.command_client import CommandClient
from streams.kafka.formats import HEAD_BYTES, MARK, UNMARKED, Format, FormatError
from streams.kafka.publisher import Publisher
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import topics_of
from streams.settings import PROJECT_ROOT, Settings
from streams.state.accounts_view import AccountsView
from tests.calls import eventually
from tests.command_line import Meterline
from tests.kafka.golden_formats import FOLDER, GOLDEN, Golden, described, shape_of, values_in

EVERY_SHAPE = pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
NEWER = 200


def marked(golden: Golden, number: int | None) -> bytes:
    """The first of a shape's values as a version would write it that has this format's number; None bears none."""
    value = golden.written()[0]
    start = VERSION_BYTES if golden.name in ("accounts", "courier") else 0
    head = b"" if number is None else MARK + bytes([number])
    return value[:start] + head + value[start + HEAD_BYTES :]


def holds(found: Any, golden: Any) -> bool:
    """Whether a decoded value has all that a golden one has. It may have fields since that older bytes lack."""
    if isinstance(golden, dict):
        return isinstance(found, dict) and all(name in found and holds(found[name], golden[name]) for name in golden)
    if isinstance(golden, list) and isinstance(found, list):
        return len(found) == len(golden) and all(holds(*each) for each in zip(found, golden, strict=True))
    return bool(found == golden)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.bin")), ids=lambda path: path.name)
def test_golden_bytes_decode_to_what_they_meant_when_they_were_written(path: Path) -> None:
    name, _, number = path.stem.rpartition("-")
    golden = next(each for each in GOLDEN if each.name == name)
    expected = json.loads(golden.path("json", int(number)).read_text())
    for value, meaning in zip(values_in(path.read_bytes()), expected, strict=True):
        if int(number) < golden.format.oldest:
            with pytest.raises(FormatError, match="older version"):
                golden.decoded(value)
        else:
            assert holds(described(golden.decoded(value)), meaning)


@EVERY_SHAPE
def test_a_shape_that_changes_gets_a_new_format(golden: Golden) -> None:
    remedy = (
        f"{golden.name}: raise its number in streams/kafka/formats.py and run `uv run python -m "
        "tests.kafka.golden_formats` (CONTRIBUTING.md, Change a stored shape)"
    )
    assert golden.path("shape.json").exists(), remedy
    assert shape_of(golden.types) == json.loads(golden.path("shape.json").read_text()), remedy
    assert golden.written() == values_in(golden.path("bin").read_bytes()), remedy


def test_golden_files_are_only_added_to() -> None:
    folder = FOLDER.relative_to(PROJECT_ROOT).as_posix()
    log = ["git", "log", "--raw", "--no-abbrev", "--no-renames", "--format=", "--", folder]
    done = subprocess.run(log, cwd=PROJECT_ROOT, capture_output=True, text=True)
    # An export of the tree has no history to look at; CI and every checkout have.
    assert done.returncode == 0 or not (PROJECT_ROOT / ".git").exists(), done.stderr
    for line in done.stdout.splitlines():
        head, _, path = line.partition("\t")
        _, _, _, written, status = head.split()
        if status != "D":
            stored = (PROJECT_ROOT / path).read_bytes()
            content = hashlib.sha1(b"blob %d\0%b" % (len(stored), stored)).hexdigest()
            assert content == written, f"{path}: golden bytes say what is stored out there: add a format, change none"
    for each in FOLDER.iterdir():
        assert each.name.partition(".")[2] in ("bin", "json", "shape.json"), each


@EVERY_SHAPE
def test_what_a_newer_version_wrote_is_told_from_garbage(golden: Golden) -> None:
    for number in (golden.format.number + 1, NEWER, 255):
        with pytest.raises(FormatError, match=r"newer version; upgrade this process"):
            golden.decoded(marked(golden, number))


@EVERY_SHAPE
def test_what_bears_no_format_is_read_as_before_there_were_any(golden: Golden) -> None:
    assert golden.format.oldest > UNMARKED or described(golden.decoded(marked(golden, None))) == described(
        golden.decoded(golden.written()[0])
    )


def test_an_older_format_is_refused_once_it_is_not_read_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    later = Format("facts", 5, 3)
    for number in (1, 2):
        with pytest.raises(FormatError, match=r"format \d, and this version reads 3 to 5: .* older version"):
            later.body(MARK + bytes([number]) + b"x")
    for number in (3, 4, 5):
        assert bytes(later.body(MARK + bytes([number]) + b"x")) == b"x"
    with pytest.raises(FormatError):
        later.check(b"\x96unmarked")
    # On intake a stranger's bytes are no old record: they must not stop the workers.
    monkeypatch.setattr(formats.INTAKE, "oldest", 1)
    intake = next(each for each in GOLDEN if each.name == "intake")
    with pytest.raises(UnreadableError, match="It bears no format"):
        decode_intake(marked(intake, None))


@given(st.binary(max_size=64))
def test_bytes_without_the_mark_are_never_taken_for_another_versions(value: bytes) -> None:
    for golden in GOLDEN:
        start = VERSION_BYTES if golden.name in ("accounts", "courier") else 0
        try:
            golden.decoded(value)
        except FormatError:
            # Bytes as there were before the mark are of format 0, where that is not read any more.
            is_old = golden.format.oldest > UNMARKED and golden.format.number_of(value, start) == UNMARKED
            assert is_old or value[start : start + len(MARK)] == MARK
        except Exception:
            pass  # garbage, which every reader has its own way with


# Each process, and the topics that it reads: it must not say that it is up on what it can't read.
READS = {
    "worker": ("accounts", "facts", "intake", "kept-replies"),
    "api": ("accounts", "facts", "replies"),
    "historian": ("facts",),
    "cashier": ("facts", "replies"),
    "courier": ("accounts", "facts", "replies", "courier"),
    "verify": ("accounts", "facts"),
}


def topic_of(settings: Settings, shape: str) -> str:
    topics = topics_of(settings)
    return {
        "accounts": topics.accounts_changelog,
        "facts": topics.journal,
        "intake": topics.intake,
        "replies": topics.replies,
        "courier": topics.courier_changelog,
        "kept-replies": topics.recent_replies_changelog,
    }[shape]


async def write(settings: Settings, shape: str, value: bytes, partition: int = 0) -> None:
    publisher = Publisher(settings)
    await publisher.start()
    await publisher.send_all(topic_of(settings, shape), partition, [(b"key", value)])
    await publisher.stop()


def golden_of(shape: str) -> Golden:
    return next(each for each in GOLDEN if each.name == shape)


@pytest.mark.parametrize(
    ("process", "shape"), [(process, shape) for process, shapes in READS.items() for shape in shapes]
)
def test_a_process_refuses_at_its_start_what_a_newer_version_wrote(
    process: str, shape: str, settings_for: Callable[..., Settings], meterline: Meterline
) -> None:
    settings = settings_for(clickhouse_url="http://127.0.0.1:1", api_port=0, webhook_key="k" * 40)

    async def prepare() -> None:
        await create_topics(settings)
        await write(settings, shape, marked(golden_of(shape), NEWER), partition=1)

    asyncio.run(prepare())
    done = meterline(process, **settings.as_environment())
    assert done.returncode == (2 if process == "verify" else EXIT_LASTING)
    said = done.stderr.strip().splitlines()[-1]
    assert f"{topic_of(settings, shape)}-1 at offset 0" in said, done.stderr
    assert "newer version; upgrade this process" in said
    assert "Traceback" not in done.stderr


def test_a_running_worker_stops_at_a_newer_record_and_makes_no_dead_letter_of_it(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for(data_dir=tmp_path / "data", tick_seconds=0)
    asyncio.run(create_topics(settings))
    log = tmp_path / "worker.log"
    command = [sys.executable, "-m", "api.cli", "worker"]
    child = lifeline.start("worker", command, log_path=log, env=settings.as_environment())
    try:
        # The first record is garbage, which is a dead letter: the worker goes on.
        asyncio.run(write(settings, "intake", b"garbage"))
        eventually(lambda: "can't be read" in log.read_text(), 60)
        asyncio.run(write(settings, "intake", marked(golden_of("intake"), NEWER)))
        eventually(lambda: child.poll() is not None, 60)
    finally:
        child.stop()
    text = log.read_text()
    assert "intake-0 at offset 1" in text and "upgrade this process" in text
    assert "Traceback" not in text


def test_readers_end_when_a_newer_version_begins_to_write(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for()

    async def run() -> None:
        await create_topics(settings)
        publisher = Publisher(settings)
        view, commands = AccountsView(settings, tmp_path / "copy"), CommandClient(settings, publisher)
        await view.start()
        await commands.start()
        assert view.is_alive and commands.is_alive
        await write(settings, "accounts", marked(golden_of("accounts"), NEWER))
        await write(settings, "replies", marked(golden_of("replies"), NEWER), commands.reply_partition)
        async with asyncio.timeout(60):
            while view.is_alive or commands.is_alive:
                await asyncio.sleep(0.02)
        await commands.stop()
        await view.stop()

    asyncio.run(run())
