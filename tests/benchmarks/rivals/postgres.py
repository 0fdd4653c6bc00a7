"""The baseline `PostgreSQL` is the same ledger on a private server, with Debian's binaries and a connection pool."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from schemas.events import UsageEvent
from schemas.prices import FIRST_PRICE_BOOK
from streams.embedded import lifeline
from tests.benchmarks.rivals.rival import START_SECONDS_MAX, BaselineError, BaselineResult, Run, measured, not_installed
from tests.benchmarks.workload import OPENING_BALANCE, Workload

NAME = "postgres"
CONNECTIONS = 16

_DEBIAN_BINARIES = Path("/usr/lib/postgresql")
_STOP_SECONDS = 10.0
# The fill factor leaves room in every page of projects, so that an update needs no new index entry.
_SCHEMA = """
CREATE TABLE projects (id text PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50);
CREATE TABLE ledger (
    id bigint GENERATED ALWAYS AS IDENTITY,
    project text NOT NULL,
    source text NOT NULL,
    event_id text NOT NULL,
    operation text NOT NULL,
    amount bigint NOT NULL,
    booked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project, source, event_id)
);
"""
_INSERT = """
INSERT INTO ledger (project, source, event_id, operation, amount) VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
_UPDATE = "UPDATE projects SET balance = balance - %s WHERE id = %s AND balance >= %s"

_decode = msgspec.json.Decoder(UsageEvent).decode


def postgres_baseline(broker_url: str, workload: Workload, seconds_max: float, *, fsync: bool = True) -> BaselineResult:
    """Run this baseline: charge the workload, a transaction an event. The events come from memory: `broker_url` is not
    used.

    Without `fsync`, a commit is only in the system's page cache, as an acknowledged record of a single Kafka broker is.
    """
    name = NAME if fsync else f"{NAME}-no-fsync"
    if (binaries := find_binaries()) is None:
        return not_installed(name, "PostgreSQL", "apt-get install postgresql")
    if find_spec("psycopg") is None or find_spec("psycopg_pool") is None:
        return not_installed(name, "psycopg", "uv sync --group bench")
    with server(binaries, fsync=fsync) as socket_dir:
        result: BaselineResult = uvloop.run(_measure(name, socket_dir, workload, seconds_max, fsync))
        return result


def find_binaries() -> Path | None:
    """The directory of the newest initdb and postgres, or None. Debian keeps them off the path, in a directory for each
    version."""
    versions = [path for path in _DEBIAN_BINARIES.glob("*/bin") if path.parent.name.isdigit()]
    places = sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    if on_path := shutil.which("postgres"):
        places.append(Path(on_path).parent)
    return next((path for path in places if (path / "initdb").exists() and (path / "postgres").exists()), None)


async def _measure(name: str, socket_dir: Path, workload: Workload, seconds_max: float, fsync: bool) -> BaselineResult:
    from psycopg_pool import AsyncConnectionPool

    address = f"host={socket_dir} user=bench dbname=postgres"
    async with AsyncConnectionPool(address, min_size=CONNECTIONS, max_size=CONNECTIONS, open=False) as pool:
        await pool.wait(START_SECONDS_MAX)
        await _prepare(pool, workload)
        run = await _charge(pool, workload, seconds_max)
        charged = await _read(pool)
        version, commit, synced = [
            await _setting(pool, each) for each in ("server_version", "synchronous_commit", "fsync")
        ]
    durable = "a commit is on disk" if fsync else "a commit survives the end of the process, not of the machine"
    note = (
        f"PostgreSQL {version.split()[0]}, a transaction an event, deduplicated, {CONNECTIONS} pooled connections "
        f"over a Unix socket, synchronous_commit {commit}, fsync {synced}: {durable}; events from memory, not Kafka"
    )
    return measured(name, workload, run, note, charged)


async def _prepare(pool: Any, workload: Workload) -> None:
    async with pool.connection() as connection:
        await connection.execute(_SCHEMA)
        cursor = connection.cursor()
        async with cursor.copy("COPY projects (id, balance) FROM STDIN") as copy:
            for project in workload.project_ids():
                await copy.write_row((project, OPENING_BALANCE))
    async with pool.connection() as connection:
        await connection.execute("ANALYZE projects")


async def _charge(pool: Any, workload: Workload, seconds_max: float) -> Run:
    rates = FIRST_PRICE_BOOK.rates
    texts = iter(workload)
    done = 0
    begun_at = time.monotonic()

    async def charge_some() -> None:
        nonlocal done
        for _, text in texts:
            event = _decode(text)
            cost = rates[event.data.operation] * (event.data.quantity or 1)
            async with pool.connection() as connection:
                inserted = await connection.execute(
                    _INSERT, (event.subject, event.source, event.id, event.data.operation, -cost)
                )
                if inserted.rowcount:
                    updated = await connection.execute(_UPDATE, (cost, event.subject, cost))
                    if not updated.rowcount:
                        await connection.rollback()
            done += 1
            if time.monotonic() - begun_at > seconds_max:
                break

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CONNECTIONS):
            tasks.create_task(charge_some())
    return Run(done, time.monotonic() - begun_at)


async def _read(pool: Any) -> dict[str, tuple[int, int]]:
    async with pool.connection() as connection:
        rows = await connection.execute(
            "SELECT project, count(*), %s - balance FROM ledger JOIN projects ON projects.id = project "
            "GROUP BY project, balance",
            (OPENING_BALANCE,),
        )
        return {project: (count, spent) async for project, count, spent in rows}


async def _setting(pool: Any, name: str) -> str:
    async with pool.connection() as connection:
        row = await (await connection.execute("SELECT current_setting(%s)", (name,))).fetchone()
        return str(row[0])


@contextmanager
def server(binaries: Path, *, fsync: bool) -> Iterator[Path]:
    """A PostgreSQL server that runs while its block does; gives the directory of its socket."""
    with tempfile.TemporaryDirectory(prefix="meterline-pg-", ignore_cleanup_errors=True) as scratch:
        directory = Path(scratch)
        unprivileged = _unprivileged(directory)
        cluster = directory / "cluster"
        initdb = [*unprivileged, str(binaries / "initdb"), "--pgdata", str(cluster), "--username=bench"]
        initdb += ["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        made = subprocess.run(initdb, capture_output=True, text=True)
        if made.returncode:
            raise BaselineError(f"initdb failed:\n{made.stdout[-1000:]}{made.stderr[-1000:]}")
        options = {
            "listen_addresses": "",
            "unix_socket_directories": scratch,
            "max_connections": str(CONNECTIONS + 8),
            "shared_buffers": "256MB",
            "max_wal_size": "4GB",
            "fsync": "on" if fsync else "off",
        }
        flags = [flag for name, value in options.items() for flag in ("-c", f"{name}={value}")]
        argv = [*unprivileged, str(binaries / "postgres"), "-D", str(cluster), *flags]
        server = lifeline.start("postgres", argv, log_path=directory / "log", guarded=True)
        try:
            _await_answer(server, directory)
            yield directory
        finally:
            # SIGINT is a fast shutdown; SIGTERM alone would wait for clients that may be gone.
            server.process.send_signal(signal.SIGINT)
            server.stop(_STOP_SECONDS)


def _unprivileged(directory: Path) -> list[str]:
    """The words to put before a command of PostgreSQL, which refuses to run as root. For root, the directory is given
    to the user that the command then runs as."""
    if os.geteuid() != 0:
        return []
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        user = pwd.getpwnam("nobody")
    os.chown(directory, user.pw_uid, user.pw_gid)
    # A change of user undoes that the server ends with its guard; --pdeathsig sets that again.
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=INT"]
    return ["env", f"--chdir={directory}", *become]


def _await_answer(server: lifeline.Child, directory: Path) -> None:
    import psycopg

    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and server.poll() is None:
        try:
            psycopg.connect(f"host={directory} user=bench dbname=postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    log = "\n".join((directory / "log").read_text(errors="replace").splitlines()[-15:])
    raise BaselineError(f"PostgreSQL did not start. The end of its log:\n{log}")
