"""The stack: all of Meterline on one machine. It supervises the processes: broker, workers, history and API."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from api.callers.keys import hash_key, new_admin_key
from streams.embedded import lifeline
from streams.embedded.broker import BrokerError, EmbeddedBroker, PortTakenError
from streams.embedded.running import note_running
from streams.errors import EXIT_LASTING, OperatorError
from streams.kafka.topic_creation import create_topics
from streams.logs import rotate
from streams.settings import Settings
from streams.space import is_full, no_space_text

READY_SECONDS_MAX = 120.0
BROKER_STARTS_MAX = 6
# A member that ran this long did start. One that fails earlier may fail again at once, so its restarts are paused.
_STABLE_SECONDS = 10.0
_RESTART_SECONDS_MAX = 5.0
# Records that wait are not being taken once none was for so long.
_STILL_SECONDS_MAX = 30.0
_TOLD_EVERY_SECONDS = 10.0
_LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")


class StackError(OperatorError):
    """The stack can't start, or can't go on; the message names the part, its log and the remedy."""


@dataclass(slots=True)
class _Member:
    name: str
    argv: list[str]
    env: dict[str, str]
    log_path: Path
    child: lifeline.Child | None = None
    started_at: float = 0.0
    failures: int = 0
    restart_at: float = 0.0
    held: bool = False


class Stack:
    """A stack is started, asked at its `url` with its `admin_key`, told to `check` now and then, and stopped.

    A process that ends is started again; for workers and API the pause before that doubles while they keep failing.
    The broker is the embedded one unless the settings name a cluster; ClickHouse likewise.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        workers: int = 1,
        progress: bool = False,
        tell: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.settings = settings.model_copy()
        self.logs_dir = settings.data_dir / "logs"
        self._workers = workers
        self._progress = progress
        self._tell = tell
        self._broker: EmbeddedBroker | None = None
        self._members: list[_Member] = []
        self._supervisor: threading.Thread | None = None
        self._stopping = threading.Event()
        # This lock guards `_members`: callers hold and let go of some while the supervisor looks for those that ended.
        self._lock = threading.Lock()
        self._broken: StackError | None = None
        self._note: Path | None = None
        self.admin_key = ""
        self.restarts = 0

    @property
    def url(self) -> str:
        """The API's base URL."""
        return f"http://{_url_host(self.settings.api_host)}:{self.settings.api_port}"

    @property
    def metrics_url(self) -> str:
        """The URL of the figures for Prometheus."""
        return f"http://{_url_host(self.settings.metrics_host)}:{self.settings.metrics_port}/metrics"

    @property
    def clickhouse_url(self) -> str:
        """The URL at which history can be queried over ClickHouse's HTTP protocol."""
        return self.settings.clickhouse_url or f"http://127.0.0.1:{self.settings.clickhouse_front_port}"

    def start(self) -> None:
        """Start every part, and return once requests are decided. Raises StackError or BrokerError."""
        settings = self.settings
        _make_private(settings.data_dir)
        settings.api_port = _port(settings.api_host, settings.api_port, "METERLINE_API_PORT")
        settings.metrics_port = _port(settings.metrics_host, settings.metrics_port, "METERLINE_METRICS_PORT")
        if settings.clickhouse_url is None:
            settings.clickhouse_front_port = _port(
                "127.0.0.1", settings.clickhouse_front_port, "METERLINE_CLICKHOUSE_FRONT_PORT"
            )
        self.admin_key = _admin_key(settings.data_dir / "admin-key")
        if settings.webhook_key is None:
            settings.webhook_key = SecretStr(_kept_secret(settings.data_dir / "webhook-key", _new_secret))
        if settings.session_key is None:
            settings.session_key = SecretStr(_kept_secret(settings.data_dir / "session-key", _new_secret))
        if not settings.webhook_networks and settings.api_host in _LOOPBACK_HOSTS:
            # Whoever may ask this API is on this machine anyway, and may try a receiver of their own.
            settings.webhook_networks = [ip_network(each) for each in ("127.0.0.0/8", "::1/128")]
        settings.admin_key_hashes = [*settings.admin_key_hashes, hash_key(self.admin_key).hex()]
        if settings.kafka_url is None:
            # Members import, and wait for Kafka, while it starts.
            settings.kafka_wait_seconds = max(settings.kafka_wait_seconds, READY_SECONDS_MAX)
            self._tell("starting Kafka, the worker and the API")
            self._start_beside_broker()
            asyncio.run(create_topics(settings))
        else:
            # A cluster that can't be reached, or has other topics, is told before anything starts.
            asyncio.run(create_topics(settings))
            self._tell("starting the worker and the API")
            self._start_members()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._supervisor.start()
        self._wait_until_ready()
        self._note = note_running(settings, self.url, self.clickhouse_url)

    def _start_beside_broker(self) -> None:
        """Start the embedded broker and, meanwhile, all members. Raises BrokerError."""
        for tries_left in reversed(range(BROKER_STARTS_MAX)):
            port = self.settings.kafka_port or lifeline.free_port()
            self.settings.kafka_url = f"127.0.0.1:{port}"
            self._start_members()
            try:
                self._start_broker(port)
                return
            except PortTakenError:
                # Somebody took it since; all are told another one.
                if self.settings.kafka_port or not tries_left:
                    raise
                self._stop_members()

    def _start_members(self) -> None:
        # History first: its engine takes longest to load.
        history = [self._member("history", ["historian"], {})] if self.settings.clickhouse_url is None else []
        workers = [
            self._member(f"worker-{number}", ["worker"], {"METERLINE_WORKER_NAME": f"worker-{number}"})
            for number in range(1, self._workers + 1)
        ]
        # The courier last: nothing waits for it.
        self._members = [*history, self._member("api", ["api"], {}), *workers, self._member("courier", ["courier"], {})]
        for member in self._members:
            self._start(member)

    def check(self) -> None:
        """Look whether the stack goes on. Raises StackError where a part has ended that can't be started again."""
        if self._broken is not None:
            raise self._broken

    def _supervise(self) -> None:
        while self._broken is None and not self._stopping.wait(0.1):
            try:
                self._restart_ended()
            except OperatorError as error:
                self._broken = StackError(str(error))

    def _restart_ended(self) -> None:
        if self._broker is not None and (code := self._broker.poll()) is not None:
            self._tell_ended("Kafka", code, self._broker.log_path)
            self._broker.stop()
            self.restarts += 1
            self._restart_broker()
        with self._lock:
            self._restart_members()

    def _restart_broker(self) -> None:
        """Start the broker again on its port, where everyone goes on trying to reach it.

        Raises BrokerError where it keeps failing. A single failure is no reason: it may have been killed again while
        it started, or another program may just have taken its port.
        """
        assert self.settings.kafka_url is not None
        port = int(self.settings.kafka_url.rpartition(":")[2])
        for attempt in range(BROKER_STARTS_MAX):
            # Without space no start can succeed, however often it is tried.
            while is_full(self.settings.data_dir):
                if self._stopping.wait(1.0):
                    return
            try:
                self._start_broker(port)
                return
            except BrokerError as error:
                if attempt + 1 == BROKER_STARTS_MAX:
                    raise
                self._tell(f"Kafka did not start: {error}")
            if self._stopping.wait(min(_RESTART_SECONDS_MAX, 0.25 * 2**attempt)):
                return

    def _tell_ended(self, name: str, code: int, log_path: Path) -> None:
        # A process that found no space could not write into its log that it found none.
        why = f": {no_space_text(self.settings.data_dir)}" if is_full(self.settings.data_dir) else ""
        self._tell(f"{name} ended with {code}{why}; starting it again (its log: {log_path})")

    def _restart_members(self) -> None:
        now = time.monotonic()
        for member in self._members:
            if member.child is not None and (code := member.child.poll()) is not None:
                member.child.stop()
                member.child = None
                if code == EXIT_LASTING:
                    raise StackError(f"{member.name} stops: {_why(member.log_path)}")
                member.failures = 1 if now - member.started_at > _STABLE_SECONDS else member.failures + 1
                pause = min(_RESTART_SECONDS_MAX, 0.25 * 2 ** (member.failures - 1))
                member.restart_at = now + pause
                self._tell_ended(member.name, code, member.log_path)
            elif member.child is None and not member.held and now >= member.restart_at:
                self.restarts += 1
                self._start(member)

    def pids(self) -> dict[str, int]:
        """The process id of each running member; `kafka` is the broker's guard."""
        pids = {member.name: member.child.pid for member in self._members if member.child is not None}
        if self._broker is not None and self._broker.pid is not None:
            pids["kafka"] = self._broker.pid
        return pids

    def hold(self, name: str) -> None:
        """Stop a member, and leave it stopped until `let_go` is called for it."""
        member = self._named(name)
        with self._lock:
            member.held = True
            child, member.child = member.child, None
        if child is not None:
            child.stop()

    def let_go(self, name: str) -> None:
        """Let the supervisor start a member again that `hold` stopped."""
        member = self._named(name)
        with self._lock:
            member.restart_at = 0.0
            member.held = False

    def stop(self) -> None:
        """Stop every part, the broker last. Safe to call at any time, more than once."""
        if self._note is not None:
            self._note.unlink(missing_ok=True)
            self._note = None
        self._stopping.set()
        if self._supervisor is not None:
            self._supervisor.join()
            self._supervisor = None
        self._stop_members()
        if self._broker is not None:
            self._broker.stop()
            self._broker = None

    def _stop_members(self) -> None:
        for member in reversed(self._members):
            if member.child is not None:
                member.child.process.terminate()
        for member in reversed(self._members):
            if member.child is not None:
                member.child.stop()
                member.child = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_broker(self, port: int) -> None:
        settings = self.settings
        self._broker = EmbeddedBroker(
            settings.data_dir,
            settings.cache_dir,
            port=port,
            heap_mb=settings.kafka_heap_mb,
            partitions=settings.partitions,
            progress=self._progress,
        )
        self._broker.start()
        settings.kafka_url = self._broker.url

    def _member(self, name: str, command: list[str], env: dict[str, str]) -> _Member:
        argv = [sys.executable, "-m", "api.cli", *command]
        log_path = self.logs_dir / f"{name}.log"
        own = {"METERLINE_LOG_FILE": str(log_path), **env}
        return _Member(name, argv, self.settings.as_environment() | own, log_path)

    def _named(self, name: str) -> _Member:
        return next(member for member in self._members if member.name == name)

    def _start(self, member: _Member) -> None:
        member.started_at = time.monotonic()
        # The process rotates its log itself, unless it ends before it comes to that, again and again.
        with suppress(FileNotFoundError):
            if member.log_path.stat().st_size > self.settings.log_bytes_max:
                rotate(member.log_path)
        member.child = lifeline.start(member.name, member.argv, log_path=member.log_path, env=member.env)

    def _wait_until_ready(self) -> None:
        """Ask for a decision until there is one, which takes broker, worker and API; and until history answers.

        While records that came before are being taken, all of them go first: that is told, and waited for.
        """
        deadline = time.monotonic() + READY_SECONDS_MAX
        told_at = time.monotonic()
        missing = "the API does not answer"
        timeout = self.settings.reply_timeout_seconds + 5.0
        with httpx.Client(headers={"authorization": f"Bearer {self.admin_key}"}, timeout=timeout) as client:
            while time.monotonic() < deadline:
                self.check()
                failing = next((member for member in self._members if member.failures >= 5), None)
                if failing is not None:
                    raise StackError(f"{failing.name} does not start:\n{_tail(failing.log_path)}\n{failing.log_path}")
                with suppress(httpx.TransportError):
                    probe = client.delete(f"{self.url}/v1/admin/projects/meterline-probe/keys/none")
                    ready = client.get(f"{self.url}/readyz")
                    if probe.status_code != 404 or ready.status_code != 200:
                        missing = f"a request is answered {probe.status_code}, /readyz says {ready.json()['status']!r}"
                    elif self._history_answers():
                        return
                    else:
                        missing = "history does not answer"
                    backlog, still_seconds = backlog_of(client.get(self.metrics_url).text)
                    if backlog and still_seconds < _STILL_SECONDS_MAX:
                        deadline = time.monotonic() + READY_SECONDS_MAX
                    if backlog and time.monotonic() - told_at > _TOLD_EVERY_SECONDS:
                        told_at = time.monotonic()
                        self._tell(f"catching up: {backlog:,} records wait to be decided")
                time.sleep(0.05)
        raise StackError(f"Not ready within {READY_SECONDS_MAX:g} seconds: {missing}; see the logs in {self.logs_dir}")

    def _history_answers(self) -> bool:
        """Whether the embedded ClickHouse is there and its historian reads on: what it holds is of this Kafka. A server
        of one's own is not waited for."""
        if self.settings.clickhouse_url is not None:
            return True
        reading = _figures(httpx.get(f"{self.clickhouse_url}/metrics").text, "meterline_history_partitions")
        return min(reading, default=0) == self.settings.partitions


def settings_apart(data_dir: Path, **changes: object) -> Settings:
    """The settings of a stack that shares nothing with another: directory, broker, ClickHouse and ports are its own."""
    own = {"data_dir": data_dir, "kafka_url": None, "clickhouse_url": None, "clickhouse_front_port": 0}
    own |= {"api_port": 0, "metrics_port": 0}
    return Settings().model_copy(update=own | changes)


def _make_private(data_dir: Path) -> None:
    """Make the data directory, or the one of an older Meterline, its owner's alone. A directory that others keep things
    in stays as it is: what our processes write there is private by their umask."""
    is_ours = not data_dir.exists() or (data_dir / "admin-key").exists() or not any(data_dir.iterdir())
    data_dir.mkdir(parents=True, exist_ok=True)
    if is_ours:
        data_dir.chmod(0o700)


def _admin_key(path: Path) -> str:
    """The admin key of this data directory."""
    return _kept_secret(path, lambda: new_admin_key()[0])


def _new_secret() -> str:
    return secrets.token_urlsafe(48)


def _kept_secret(path: Path, make: Callable[[], str]) -> str:
    """The secret in this file. It is made at its first use, and its owner alone can read the file."""
    if path.exists() and (known := path.read_text().strip()):
        return known
    key = make()
    # A file that found no space for its key would be an empty key from then on.
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key)
    draft.rename(path)
    return key


def _port(host: str, port: int, setting: str) -> int:
    if port == 0:
        return lifeline.free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StackError(
                f"Port {port} can't be used ({error.strerror}): set {setting} to another one, or to 0 for any"
            ) from None
    return port


def _url_host(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _why(log_path: Path) -> str:
    """The reason that a process logged last before it ended for good, without time and place."""
    said = re.findall(
        r"\[critical +\] (?:\w+ stops: )?(.+?)(?: \[[\w.]+\]| process=|$)", _tail(log_path, 500), re.MULTILINE
    )
    said += re.findall(r"^error: (.+)$", _tail(log_path), re.MULTILINE)
    return said[-1] if said else f"see {log_path}"


def _figures(metrics: str, name: str, topics: Container[str] | None = None) -> list[float]:
    """The values of one metric in the text of `/metrics`, or those of some topics."""
    return [
        sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == name and (topics is None or sample.labels.get("topic") in topics)
    ]


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def backlog_of(metrics: str) -> tuple[int, float]:
    """From the text of `/metrics`: how many records wait for the worker, and for how many seconds none of them was
    taken."""
    decided = {"usage", "intake"}
    waiting = sum(_figures(metrics, "meterline_lag_records", decided))
    return int(waiting), max(_figures(metrics, "meterline_still_seconds", decided), default=0.0)
