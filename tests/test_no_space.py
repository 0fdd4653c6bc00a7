"""A full disk is told by its path and the remedy, by every process and command that meets one; and the work goes on."""

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.kafka.topic_creation import create_topics
from streams.settings import Settings
from streams.space import is_full, no_space

SENTENCE = "no space left on "


@pytest.mark.parametrize(
    ("error", "path"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "/here"),
        (OSError(errno.ENOSPC, "No space left on device", "/there/file"), "/there/file"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/there/file"), "/there/file"),
        (Exception("IO error: No space left on device: While appending to file: /db/000009.sst: x"), "/db/000009.sst"),
        (Exception("Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE)"), "/here"),
        (Exception("Code: 75. DB::ErrnoException: Cannot write to file /ch/a.bin: , errno: 28, strerror"), "/ch/a.bin"),
        (Exception("database or disk is full"), "/here"),
    ],
)
def test_every_way_to_say_that_a_disk_is_full_is_told_alike(error: Exception, path: str) -> None:
    told = no_space(error, "/here")
    assert told is not None and told.startswith(f"{SENTENCE}{path}: free some")
    wrapped = RuntimeError("an agent failed")
    wrapped.__cause__ = error
    assert no_space(wrapped, "/here") == told
    assert no_space(RuntimeError("anything else, errno: 280"), "/here") is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB of which nothing is used."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(descriptor, bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(descriptor)
    return ballast


def test_a_process_or_command_on_a_full_disk_says_so_in_one_sentence(
    small_disk: Path, settings_for: Callable[..., Settings]
) -> None:
    settings = settings_for(data_dir=small_disk / "data", api_port=0, clickhouse_front_port=0)
    asyncio.run(create_topics(settings))
    fill(small_disk)
    assert is_full(settings.data_dir)
    for command in ("worker", "historian", "up"):
        done = subprocess.run(
            [sys.executable, "-m", "api.cli", command],
            env=os.environ | settings.as_environment(),
            capture_output=True,
            text=True,
            timeout=90,
        )
        said = done.stdout + done.stderr
        assert done.returncode, said
        assert f"{SENTENCE}{small_disk}" in said and "Traceback" not in said, f"{command}: {said}"
