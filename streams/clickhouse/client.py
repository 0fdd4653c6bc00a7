"""The client of the history's ClickHouse: embedded (chDB) on a laptop, or a server over HTTP, behind one class.

Driver errors pass as they are: `DatabaseError` (refused; `.code` is ClickHouse's), `OperationalError` (unreachable).
But where a query meets one of its limits, a Rejection says so (`streams.clickhouse.limits`).
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import UTC
from hashlib import sha256
from io import RawIOBase
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast
from urllib.parse import unquote, urlsplit

import clickhouse_connect
import msgspec
import urllib3
from clickhouse_connect.common import set_setting
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError, StreamFailureError
from clickhouse_connect.driver.exceptions import Error as DriverError
from clickhouse_connect.driver.httputil import default_pool_manager

from streams.clickhouse.cluster import CONSISTENT_SETTINGS, DDL_SETTINGS, QUORUM_SETTINGS, on_cluster
from streams.clickhouse.limits import QueryLimits, limits_of_callers, refusal_of, too_much
from streams.errors import OperatorError
from streams.settings import PROJECT_ROOT, Settings
from streams.space import is_full, no_space, no_space_text

if TYPE_CHECKING:
    from chdb.state.sqlitelike import Connection

Parameters = Mapping[str, object]

CALLS_AT_ONCE_MAX = 16
CALL_WAIT_SECONDS_MAX = 30.0
# A server that is there answers a ping at once, however many queries it runs.
PING_SECONDS_MAX = 3.0
# How long a server may take for the driver's first questions, which cost it nothing; and, once it has answered those,
# between two pieces of an answer.
ANSWER_SECONDS_MAX = 10
QUERY_SECONDS_MAX = 300
FILE_CHUNK_BYTES = 256 * 1024

# The embedded engine's users and their grants.
EMBEDDED_CONFIG = PROJECT_ROOT / "clickhouse" / "embedded.xml"

# Nothing here needs Native of a later version, which the embedded engine's front would ask the engine twice for.
set_setting("use_protocol_version", False)

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_INPUT = re.compile(r"\bFROM input\(", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{\w+:[^}]+\}")

# The settings that make an insert one block, so one part, so all or nothing. The engine cuts a block where either size
# is reached (268 MB by default, which wide rows do reach), may cut it again for a second insert thread, and since 26.x
# hands small inserts to a background queue unless told not to.
INSERT_ROWS_MAX = 1_000_000
INSERT_SETTINGS: Mapping[str, int] = {
    "async_insert": 0,
    "max_insert_threads": 1,
    "min_insert_block_size_rows": INSERT_ROWS_MAX + 1,
    "min_insert_block_size_bytes": 0,
}


class Pack(NamedTuple):
    """A pack of rows for `insert_packs`: values that the rows share, and `row_count` rows as a MessagePack array of
    arrays."""

    shared: tuple[object, ...]
    rows: bytes
    row_count: int


class Found(NamedTuple):
    """The rows that a query found. `rows_read` is how many rows of tables and projections ClickHouse read for it; None
    where the engine is embedded in this process and does not say so."""

    rows: Sequence[Sequence[Any]]
    rows_read: int | None


class ClickHouseError(OperatorError):
    """ClickHouse cannot be used as configured; the message names the remedy."""


def open_client(settings: Settings) -> Client:
    """Open one connection: to the server at `clickhouse_url`, else to the embedded engine in `clickhouse_dir`.

    Times come back aware and in UTC whatever the host's or the server's zone is. A process may open many embedded
    clients, all on the same directory; they run at once, while the calls of one client wait for each other.
    """
    return _open_embedded(settings) if settings.clickhouse_url is None else _open_http(settings)


class ClickHouse:
    """The calls that Meterline makes of ClickHouse. Safe in any thread. They block, so asyncio code calls them in
    threads.

    A query borrows a client of its own, since an embedded client does one thing at a time, and a streamed result keeps
    it busy until it is closed. Inserts have a client to themselves, so slow downloads never hold up the historian. SQL
    takes values only as bound parameters: `{name:String}` in the text, `name` in `parameters`.

    Queries are held to the limits of what a caller of the API may ask, unless `limited` sets others.
    """

    def __init__(self, settings: Settings, *, connect: bool = True) -> None:
        """Connect now, and raise ClickHouseError where that fails.

        Without `connect` the server may be away. Where it is on this machine, each query then pings it first, and
        raises ClickHouseError soon where it is away or hangs.
        """
        self._settings = settings
        pings = not connect and urlsplit(settings.clickhouse_url or "").hostname in _LOOPBACK
        self._limits = limits_of_callers(settings)
        self._until: float | None = None
        self._is_consistent = False
        self._pings = (
            urllib3.PoolManager(maxsize=CALLS_AT_ONCE_MAX, retries=False, timeout=PING_SECONDS_MAX) if pings else None
        )
        self._slots = threading.BoundedSemaphore(CALLS_AT_ONCE_MAX)
        self._idle: list[Client] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._writer = open_client(settings) if connect else None

    @property
    def cluster(self) -> str | None:
        """The name of the cluster whose replicas keep the history, or None for a single server."""
        return self._settings.clickhouse_cluster

    def limited(self, limits: QueryLimits, until: float | None = None) -> Self:
        """The same ClickHouse with other limits for its queries: none runs on after `until`, by the monotonic clock."""
        other = copy(self)
        other._limits, other._until = limits, until
        return other

    def consistent(self) -> Self:
        """The same ClickHouse, whose queries see all that was acknowledged: on a cluster a replica that lacks some of
        it raises DatabaseError instead of an old answer."""
        other = copy(self)
        other._is_consistent = self.cluster is not None
        return other

    def query(self, sql: str, parameters: Parameters | None = None) -> Sequence[Sequence[Any]]:
        """Run a SELECT; gives all its rows."""
        return self.find(sql, parameters).rows

    def find(self, sql: str, parameters: Parameters | None = None) -> Found:
        """Run a SELECT; gives all its rows, and how many it read."""
        with self._client() as client, _told():
            result = client.query(sql, parameters=_bound(sql, parameters), settings=self._query_settings())
            read = None if self._settings.clickhouse_url is None else result.summary.get("read_rows")
            return Found(result.result_rows, None if read is None else int(read))

    def command(self, sql: str, parameters: Parameters | None = None) -> object:
        """Run a statement that returns nothing or one value, such as DDL; on a cluster all replicas carry it out."""
        settings: dict[str, object] | None = None
        if self.cluster is not None:
            sql = on_cluster(sql, self.cluster)
            settings = {**DDL_SETTINGS, **QUORUM_SETTINGS}
        with self._client() as client:
            return client.command(sql, parameters=_bound(sql, parameters), settings=settings)

    def insert_packs(
        self,
        table: str,
        shared: Mapping[str, str],
        columns: Mapping[str, str],
        packs: Sequence[Pack],
        *,
        partitions_max: int = 1,
    ) -> int:
        """Insert packs as one block; gives the number of rows. `shared` and `columns` are names with their types.

        The engine itself takes the packs apart: rows come from Kafka as MessagePack and go in as they are.

        Within one partition a block is one part: after a crash the table has all of the rows or none. A batch that
        spans more than `partitions_max` partitions is refused whole (code 252), because its parts would appear one
        after the other. Integers in a DateTime64 column are its ticks.

        Over HTTP the driver sends the block again if the server closes the connection before it answers. The block
        bears a token made of its content, so a table with a deduplication window takes it once.
        """
        rows = sum(pack.row_count for pack in packs)
        if rows > INSERT_ROWS_MAX:
            raise ValueError(f"{rows} rows in one insert; {INSERT_ROWS_MAX} at most stay one block")
        if rows == 0:
            return 0
        encode = msgspec.msgpack.encode
        data = b"".join(b"".join(map(encode, pack.shared)) + pack.rows for pack in packs)
        settings: dict[str, object] = {
            **INSERT_SETTINGS,
            "max_partitions_per_insert_block": partitions_max,
            "insert_deduplication_token": sha256(data).hexdigest(),
            **(QUORUM_SETTINGS if self.cluster is not None else {}),
        }
        types = [*shared.values(), f"Array(Tuple({', '.join(columns.values())}))"]
        names = [*shared, "pack"]
        structure = ", ".join(f"`{name}` {kind}" for name, kind in zip(names, types, strict=True))
        source = f"input({sql_literal(structure)})"
        values = ", ".join([*shared, *(f"fact.{number}" for number in range(1, len(columns) + 1))])
        into = f"INSERT INTO {table} ({', '.join([*shared, *columns])})"
        self._insert(f"{into} SELECT {values} FROM {source} ARRAY JOIN pack AS fact", settings, data)
        return rows

    def _insert(self, sql: str, settings: Mapping[str, object], data: bytes) -> None:
        assert self._writer is not None, "a client that connects later is for queries"
        if self._settings.clickhouse_url is not None:
            self._writer.command(f"{sql} FORMAT MsgPack", data=data, settings=dict(settings))
        else:
            with from_file(f"{sql} SETTINGS {_settings_clause(settings)}", "MsgPack", data) as statement:
                self._writer.command(statement)

    def insert_file(self, sql: str, path: Path, data_format: str, settings: Mapping[str, object]) -> None:
        """Run `INSERT … SELECT … FROM input('structure')` on a file, piece by piece: the embedded engine reads it, a
        server is sent it."""
        with self._client() as client:
            if self._settings.clickhouse_url is None:
                # The engine takes *, ? and {} in a name for those of several files, and nothing tells it otherwise.
                with TemporaryDirectory() as folder:
                    named = Path(folder) / "file"
                    named.symlink_to(path.resolve())
                    source = f"FROM file({sql_literal(str(named))}, {data_format}, "
                    statement = _INPUT.sub(lambda _: source, sql, count=1)
                    client.command(f"{statement} SETTINGS {_settings_clause(settings)}")
                return

            def pieces() -> Generator[bytes, None, None]:
                yield f"{sql} FORMAT {data_format}\n".encode()
                with path.open("rb") as file:
                    while piece := file.read(FILE_CHUNK_BYTES):
                        yield piece

            cast(Any, client).raw_insert(insert_block=pieces(), settings=dict(settings))

    def stream_csv(
        self, sql: str, parameters: Parameters | None = None, *, header: bool = True, crlf: bool = False
    ) -> Generator[bytes, None, None]:
        """Run a SELECT; gives CSV with a header line, in pieces, without holding the result in memory. The header is a
        piece of its own; without `header` it is left out, and so is the query for its names. With `crlf` the other
        lines end as RFC 4180 has it.

        The first rows are read before this returns, so a mistake in the query is raised here. The result may be closed
        early; it holds one of the CALLS_AT_ONCE_MAX places until then. An embedded failure half-way raises
        `StreamFailureError`; a server finishes the query before it sends the first byte, so it does not fail half-way.
        """
        return self._stream(sql, parameters, "CSV", header, crlf)

    def stream_parquet(self, sql: str, parameters: Parameters | None = None) -> Generator[bytes, None, None]:
        """Run a SELECT; gives a Parquet file in pieces, as `stream_csv` does. The embedded engine makes it whole first,
        in memory: ask for no more rows than that bears."""
        return self._stream(sql, parameters, "Parquet")

    def _stream(
        self, sql: str, parameters: Parameters | None, data_format: str, header: bool = False, crlf: bool = False
    ) -> Generator[bytes, None, None]:
        pieces = self._pieces(sql, parameters, data_format, header, crlf)
        next(pieces)
        return pieces

    def engine_connection(self) -> Connection:
        """Open another connection to the embedded engine, below the driver; the caller closes it."""
        if self._closed.is_set() or self._settings.clickhouse_url is not None:
            raise ClickHouseError("no embedded ClickHouse is open in this process")
        import chdb

        return chdb.connect(str(self._settings.clickhouse_dir.resolve()))

    def close(self) -> None:
        """Refuse new calls and free the engine, at once or when the last running call or stream ends."""
        with self._lock:
            self._closed.set()
            idle = self._idle.copy()
            self._idle.clear()
        for client in idle if self._writer is None else [*idle, self._writer]:
            client.close()

    def _query_settings(self) -> dict[str, int]:
        consistent = CONSISTENT_SETTINGS if self._is_consistent else {}
        if self._until is None:
            return {**self._limits.as_settings(), **consistent}
        left = self._until - time.monotonic()
        if left <= 0:
            raise too_much("more time than its queries may take together")
        return {**self._limits._replace(seconds=min(self._limits.seconds, left)).as_settings(), **consistent}

    def _pieces(
        self, sql: str, parameters: Parameters | None, data_format: str, header: bool, crlf: bool
    ) -> Generator[bytes, None, None]:
        with self._client() as client, _told():
            head = b""
            if header:
                # chDB streams plain CSV but holds a whole CSVWithNames in memory, so the header is asked for by itself.
                described = client.query(f"DESCRIBE TABLE ({sql}\n)", parameters=_bound(sql, parameters))
                names = [str(row[0]).replace('"', '""') for row in described.result_rows]
                head = (",".join(f'"{name}"' for name in names) + "\n").encode()
            # A server that fails half-way would write its error into a body already marked 200. With this setting it
            # waits for the end first.
            settings: dict[str, Any] = {"wait_end_of_query": "1"}
            text, limits = sql, self._query_settings() | {"output_format_csv_crlf_end_of_line": int(crlf)}
            if self._settings.clickhouse_url is None:
                # The driver would hold the whole result in memory for chDB's settings, unless they are in the text.
                text += f"\nSETTINGS {_settings_clause(limits)}"
            else:
                settings |= limits
            stream = cast(RawIOBase, client.raw_stream(text, _bound(sql, parameters), settings, fmt=data_format))
            try:
                # Read before anyone may close the stream: chDB runs one that was never read to its end, then closes it.
                piece = stream.read(FILE_CHUNK_BYTES)
                yield b""
                if head:
                    yield head
                while piece:
                    yield piece
                    piece = stream.read(FILE_CHUNK_BYTES)
            finally:
                stream.close()

    @contextmanager
    def _client(self) -> Iterator[Client]:
        if not self._slots.acquire(timeout=CALL_WAIT_SECONDS_MAX):
            raise ClickHouseError(f"{CALLS_AT_ONCE_MAX} ClickHouse calls are running already: try again later")
        try:
            self._ping()
            with self._lock:
                if self._closed.is_set():
                    raise ClickHouseError("ClickHouse was closed")
                idle = self._idle.pop() if self._idle else None
            client = idle or open_client(self._settings)
            # A failed query may leave rows behind, which chDB would put before the next answer of this client (4.4).
            keep = False
            try:
                yield client
                keep = True
            finally:
                with self._lock:
                    keep = keep and not self._closed.is_set()
                    if keep:
                        self._idle.append(client)
                if not keep:
                    client.close()
        finally:
            self._slots.release()

    def _ping(self) -> None:
        if self._pings is None:
            return
        url = urlsplit(self._settings.clickhouse_url or "")
        at = f"{url.hostname}:{url.port or ''}"
        try:
            self._pings.request("GET", f"{url.scheme}://{at}/ping")
        except urllib3.exceptions.HTTPError as error:
            raise ClickHouseError(f"ClickHouse at {at} does not answer: {type(error).__name__}") from None


@contextmanager
def _told() -> Iterator[None]:
    """Raise a Rejection in place of an error by which ClickHouse ended a query at one of its limits."""
    try:
        yield
    except (DatabaseError, StreamFailureError) as error:
        if (refusal := refusal_of(error)) is not None:
            raise refusal from None
        raise


@contextmanager
def from_file(sql: str, data_format: str, data: bytes) -> Iterator[str]:
    """Rewrite `INSERT … SELECT … FROM input('structure')` for the embedded engine, which takes the data from a file.

    The file lasts as long as the context.
    """
    with NamedTemporaryFile(suffix=".data") as file:
        file.write(data)
        file.flush()
        yield _INPUT.sub(lambda _: f"FROM file({sql_literal(file.name)}, {data_format}, ", sql, count=1)


def _settings_clause(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name} = {sql_literal(str(value))}" for name, value in settings.items())


def sql_literal(value: str) -> str:
    """A string as SQL text."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def sql_name(name: str) -> str:
    """A name of a column as SQL text, whatever it is."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def _open_embedded(settings: Settings) -> Client:
    path = settings.clickhouse_dir
    path.mkdir(parents=True, exist_ok=True)
    # The lock is looked at before opening, because the engine itself reports it only on stderr.
    if _locked_elsewhere(path):
        # An engine that found no space leaves a lock that names nobody.
        if is_full(path):
            raise ClickHouseError(no_space_text(path))
        raise ClickHouseError(
            f"{path} is in use: another Meterline process has it open: query it through its HTTP front, or stop it"
        )
    try:
        # The zone is in the connection string so that the driver's first question already sees UTC. The rest is of the
        # engine, and counts where a process opens it first.
        options = {
            "session_timezone": "UTC",
            "config-file": str(EMBEDDED_CONFIG),
            "max_server_memory_usage": str(settings.clickhouse_memory_mb * 1024 * 1024),
        }
        return clickhouse_connect.get_client(interface="chdb", path=str(path), chdb_options=options, tz_mode="aware")
    except DriverError as error:
        raise ClickHouseError(
            no_space(error, path) or f"cannot open the embedded ClickHouse in {path}: {error}"
        ) from error


def _locked_elsewhere(path: Path) -> bool:
    """Whether another process holds the engine's lock, a flock on its `status` file, which names the holder."""
    try:
        with (path / "status").open("rb") as status:
            try:
                fcntl.flock(status, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return status.readline().split() != [b"PID:", str(os.getpid()).encode()]
    except FileNotFoundError:
        pass
    return False


def _open_http(settings: Settings) -> Client:
    assert settings.clickhouse_url is not None
    url = urlsplit(settings.clickhouse_url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ClickHouseError("METERLINE_CLICKHOUSE_URL must look like http://user:password@host:8123/database")
    try:
        client = clickhouse_connect.get_client(
            interface=url.scheme,
            host=url.hostname,
            port=url.port,
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password or ""),
            database=unquote(url.path.strip("/")) or None,
            settings={"session_timezone": "UTC"},
            tz_mode="aware",
            # What is on this machine is not asked through the environment's HTTP proxy.
            pool_mgr=default_pool_manager() if url.hostname in _LOOPBACK else None,
            # A session would refuse a second query meanwhile, and nothing here needs a session.
            autogenerate_session_id=False,
            send_receive_timeout=ANSWER_SECONDS_MAX,
        )
    except DriverError as error:
        at, why = f"ClickHouse at {url.hostname}:{url.port or ''}", str(error).partition("\n")[0]
        if isinstance(error, OperationalError):
            text = f"{at} does not answer: {why}. Is it running, and METERLINE_CLICKHOUSE_URL right?"
        else:
            text = f"{at} refused: {why}. Are user, password and database of METERLINE_CLICKHOUSE_URL right?"
        raise ClickHouseError(text) from error
    cast(Any, client).timeout = urllib3.Timeout(connect=ANSWER_SECONDS_MAX, read=QUERY_SECONDS_MAX)
    # The driver learns the server's own zone before our setting applies, and would render parameters in it.
    client.server_tz = UTC
    return client


def _bound(sql: str, parameters: Parameters | None) -> dict[str, Any] | None:
    if not parameters:
        return None
    if not _PLACEHOLDER.search(sql):
        # The driver would take such text for a %-template and write the values into it.
        raise ValueError("the query has parameters but no {name:Type} placeholder")
    return dict(parameters)
