"""The front serves the embedded ClickHouse engine by ClickHouse's HTTP protocol: to curl, clickhouse_connect, tools of
analysts.

It answers on the machine's own names only and, unless told otherwise, lets nothing be written: what a reader may ask is
on lists (front/allowed.py), each statement is judged (front/statements.py), and the engine denies the rest. It does not
know sessions and `Accept-Encoding`: an answer is `identity`, in blocks where `compress=1` is asked.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from tempfile import NamedTemporaryFile
from typing import Any

import anyio
import anyio.to_thread
import cramjam
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from streams.clickhouse.client import ClickHouse, ClickHouseError, from_file, sql_literal
from streams.embedded.front.allowed import (
    DATABASES,
    DEFAULTS,
    NotAllowed,
    Unlisted,
    check_format,
    check_setting,
    is_known_setting,
    lowered,
    refused_names,
)
from streams.embedded.front.compressed_blocks import SETTINGS_OF_BLOCKS, BadBlocks, packer, unpack
from streams.embedded.front.forms import BadForm, fields_of, is_form
from streams.embedded.front.native_blocks import NotGiven, read_native, settings_for, version_of
from streams.embedded.front.peers import uid_of
from streams.embedded.front.statements import ONLY, judge
from streams.embedded.running import OWN_USER

# Queries of analysts that run at once, and those of Meterline's own processes, which have places of their own. The next
# ones wait their turn for a while.
QUERIES_AT_ONCE_MAX = 4
OWN_QUERIES_AT_ONCE_MAX = 16
WAITING_MAX = 32
WAIT_SECONDS_MAX = 10.0
READER_BODY_BYTES_MAX = 1024 * 1024
WRITER_BODY_BYTES_MAX = 512 * 1024 * 1024
# Statements whose formatted text is kept, and how long they may be.
KNOWN_TEXTS_MAX = 200
KNOWN_CHARS_MAX = 10_000

# A result is built in memory before it is sent, so that a failed query never looks like a short result.
_WRITER_SETTINGS = {"session_timezone": "UTC", "max_execution_time": "300", "result_overflow_mode": "throw"}
_NOT_ENGINE_SETTINGS = re.compile(
    r"param_.*|query|query_id|database|default_format|user|password|session_(id|timeout|check)|close_session|quota_key"
    r"|buffer_size|wait_end_of_query|client_protocol_version|enable_http_compression|(de)?compress"
    r"|send_progress_in_http_headers|http_headers_progress_interval_ms|cancel_http_readonly_queries_on_client_close"
)
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUERY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LOCAL = re.compile(r"(https?://)?(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)

_INSERT_WITH_DATA = re.compile(
    rb"\s*(INSERT\s+INTO\s.+?)(\s+SETTINGS\s.+?)?\s+FORMAT\s+(\w+)[ \t]*(?:\r?\n|$)", re.IGNORECASE | re.DOTALL
)
_FROM_INPUT = re.compile(r"\sSELECT\s.*\sFROM\s+input\(", re.IGNORECASE | re.DOTALL)
_GIVES_ROWS = re.compile(r"[\s(]*(SELECT|WITH|FROM|SHOW|DESC|DESCRIBE|EXPLAIN|EXISTS)\b", re.IGNORECASE)
# ClickHouse's numbers of errors; the last is for what is none of the engine's.
_NOT_IMPLEMENTED, _UNKNOWN_TABLE, _UNKNOWN_SETTING, _READONLY, _TOO_MANY_QUERIES = 48, 60, 115, 164, 202
_ACCESS_DENIED, _AUTHENTICATION_FAILED, _HERE = 497, 516, 1002
_STATUS_OF_CODE = {
    _READONLY: 403,
    _TOO_MANY_QUERIES: 429,
    _AUTHENTICATION_FAILED: 401,
    36: 400,
    47: 404,
    _UNKNOWN_TABLE: 404,
    62: 400,
    81: 404,
    _UNKNOWN_SETTING: 400,
    159: 408,
}

_DECOMPRESSORS: dict[str, Callable[[bytes], Any]] = {
    "gzip": cramjam.gzip.decompress,
    "deflate": cramjam.zlib.decompress,
    "lz4": cramjam.lz4.decompress,
    "zstd": cramjam.zstd.decompress,
}


class _Refused(Exception):
    """A refusal of a request, answered as ClickHouse answers an exception. `code` is ClickHouse's own."""

    def __init__(self, message: str, *, status: int = 400, code: int = 36) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def create_front(
    clickhouse: ClickHouse,
    *,
    read_only: bool = True,
    token: str | None = None,
    open_to_uid: int | None = None,
    metrics: Callable[[], bytes] | None = None,
) -> Starlette:
    """Create an ASGI app to serve on a loopback address. `clickhouse` must be embedded, or ClickHouseError is raised.

    With a `token`, a request needs it as a bearer token, as `X-ClickHouse-Key` or as the password of basic
    authentication; but none where the kernel says that it comes from a process of the user `open_to_uid`. A GET never
    writes; a POST may where `read_only` is false. A query is stopped when its client goes. `metrics` is what `/metrics`
    gives, to whoever may query.
    """
    clickhouse.engine_connection().close()
    front = _Front(clickhouse, read_only, token, open_to_uid)
    front.metrics = metrics
    return Starlette(
        routes=[
            Route("/", front.answer, methods=["GET", "POST"]),
            Route("/ping", front.answer, methods=["GET"]),
            Route("/metrics", front.answer, methods=["GET"]),
        ]
    )


class _Front:
    metrics: Callable[[], bytes] | None = None

    def __init__(self, clickhouse: ClickHouse, read_only: bool, token: str | None, open_to_uid: int | None) -> None:
        self._clickhouse = clickhouse
        self._read_only = read_only
        self._token = token
        self._open_to_uid = open_to_uid
        self._places = anyio.CapacityLimiter(QUERIES_AT_ONCE_MAX)
        self._own_places = anyio.CapacityLimiter(OWN_QUERIES_AT_ONCE_MAX)
        self._names: Unlisted | None = None
        self._known_texts: dict[str, str] = {}

    async def answer(self, request: Request) -> Response:
        try:
            _check_origin(request)
            path = request.url.path
            if path == "/ping" or (path == "/" and request.method != "POST" and not request.url.query):
                return Response("Ok.\n", media_type="text/plain")
            is_own = self._authenticate(request)
            if path == "/metrics":
                return Response(self.metrics() if self.metrics else b"", media_type=CONTENT_TYPE_LATEST)
            reader = self._read_only or request.method != "POST"
            statement = _Statement(request, await _body(request, reader), reader)
            if is_own:
                # Its limits are the operator's settings, which may be above those here.
                statement.settings = {name: lowered(name, value) for name, value in statement.settings.items()}
            async with _place(self._own_places if is_own else self._places):
                return await self._run(statement, request)
        except NotAllowed as refused:
            return _error(str(refused), 403, _READONLY)
        except _Refused as refused:
            return _error(str(refused), refused.status, refused.code)
        except ClickHouseError as error:
            return _error(str(error), 503, _HERE)
        except RuntimeError as error:  # what chDB raises
            return _engine_error(str(error))
        except NotGiven as not_given:
            return _error(str(not_given), 501, _NOT_IMPLEMENTED)
        except (UnicodeDecodeError, cramjam.DecompressionError, BadBlocks, BadForm) as error:
            return _error(f"The body cannot be read: {error}", 400, 36)

    def _authenticate(self, request: Request) -> bool:
        """Whether a request comes from a process of Meterline's own. Raises _Refused."""
        if self._token is None:
            return False
        user, key = _credentials(request)
        if hmac.compare_digest(key.encode(), self._token.encode()):
            return user == OWN_USER
        if self._open_to_uid is not None and not key and _peer(request) == self._open_to_uid:
            return False
        raise _Refused(
            "Wrong or missing access key. Processes of the user who runs Meterline here need none; others send the "
            "token in the file clickhouse-token of its data directory, as password or as X-ClickHouse-Key",
            status=401,
            code=_AUTHENTICATION_FAILED,
        )

    def _refused(self) -> Unlisted:
        """The engine's names that readers may not use; asked once, in a thread."""
        if self._names is None:
            connection = self._clickhouse.engine_connection()
            try:
                self._names = refused_names(lambda sql: connection.query(sql, "TSVRaw").bytes().decode().split())
            finally:
                connection.close()
        return self._names

    def _formatted(self, connection: Any, sql: str) -> str:
        """A statement as the engine's own formatter writes it. Programs ask the same again, so some are kept."""
        if (known := self._known_texts.get(sql)) is not None:
            return known
        result = connection.query("SELECT formatQuerySingleLine({sql:String})", "TSVRaw", params={"sql": _escaped(sql)})
        formatted = str(result.bytes().decode().rstrip("\n"))
        if len(sql) <= KNOWN_CHARS_MAX:
            if len(self._known_texts) >= KNOWN_TEXTS_MAX:
                self._known_texts.clear()
            self._known_texts[sql] = formatted
        return formatted

    async def _run(self, statement: _Statement, request: Request) -> Response:
        """Run a statement in a thread, and stop it if its client goes."""

        async def stop_when_gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            while True:  # it may not have begun yet
                await anyio.to_thread.run_sync(statement.stop, self._clickhouse)
                await anyio.sleep(0.2)

        watching = asyncio.create_task(stop_when_gone())
        try:
            return await anyio.to_thread.run_sync(statement.run, self._clickhouse, self._refused, self._formatted)
        finally:
            watching.cancel()


@asynccontextmanager
async def _place(places: anyio.CapacityLimiter) -> AsyncIterator[None]:
    """A place for a query. Waits for one for a while; raises _Refused where too many wait, or none gets free."""
    try:
        if places.statistics().tasks_waiting >= WAITING_MAX:
            raise TimeoutError
        with anyio.fail_after(WAIT_SECONDS_MAX):
            await places.acquire()
    except TimeoutError:
        raise _Refused(
            f"Too many simultaneous queries. {places.total_tokens:g} run at once here: wait until one ends",
            status=429,
            code=_TOO_MANY_QUERIES,
        ) from None
    try:
        yield
    finally:
        places.release()


class _Statement:
    """The statement of one request: SQL, data, parameters and settings, run on an engine connection of its own."""

    def __init__(self, request: Request, body: bytes, reader: bool) -> None:
        params = dict(request.query_params)
        content_type = request.headers.get("content-type", "")
        if is_form(content_type):
            form = fields_of(body, content_type)
            if twice := form.keys() & params.keys():
                raise BadForm(f"The form and the URL both have {min(twice)[:64]!r}")
            params, body = params | form, b""
        if params.get("decompress") == "1":
            body = unpack(body, READER_BODY_BYTES_MAX if reader else WRITER_BODY_BYTES_MAX)
        self.pack = packer(params)
        self.version = version_of(params.get("client_protocol_version", "0"))
        query = params.get("query", "").encode()
        self.sql = query + b"\n" + body if query and body else query or body
        if not self.sql.strip():
            raise _Refused("Empty query", code=62)
        self.reader = reader
        query_id = params.get("query_id", "")
        self.query_id = query_id if _QUERY_ID.fullmatch(query_id) else str(uuid.uuid4())
        self.database = params.get("database") or request.headers.get("x-clickhouse-database")
        self.format = params.get("default_format") or request.headers.get("x-clickhouse-format") or "TabSeparated"
        self.parameters = {name[6:]: value for name, value in params.items() if name.startswith("param_")}
        not_settings = SETTINGS_OF_BLOCKS if params.get("compress") == "1" else frozenset()
        self.settings = {
            name: value
            for name, value in params.items()
            if not _NOT_ENGINE_SETTINGS.fullmatch(name) and name not in not_settings
        }
        # The engine gives queries ids of its own. This is how `stop` finds this one.
        self._mark = str(uuid.uuid4())
        if reader:
            check_format(self.format)
            if self.database and self.database not in DATABASES:
                raise NotAllowed(f"There is no database {self.database[:64]!r} here")

    def run(
        self, clickhouse: ClickHouse, refused: Callable[[], Unlisted], formatted: Callable[[Any, str], str]
    ) -> Response:
        if self.reader:
            self._check_settings(refused())
        connection = clickhouse.engine_connection()
        try:
            return self._read(connection, refused(), formatted) if self.reader else self._write(connection)
        finally:
            connection.close()

    def _check_settings(self, refused: Unlisted) -> None:
        for name, value in self.settings.items():
            if _SETTING_NAME.fullmatch(name) and not is_known_setting(name, refused):
                raise _Refused(f"Unknown setting {name[:64]!r}", code=_UNKNOWN_SETTING)
            check_setting(name, value)

    def stop(self, clickhouse: ClickHouse) -> None:
        """Stop the statement, if it runs."""
        _kill(clickhouse, f"= {sql_literal(self._mark)}")

    def _read(self, connection: Any, refused: Unlisted, formatted: Callable[[Any, str], str]) -> Response:
        judged = judge(
            formatted(connection, self.sql.decode()),
            self.parameters,
            (self.database or "").lower() == "system",
            refused,
        )
        answer_format = judged.format or self.format
        is_versioned = self.version and answer_format.lower() == "native"
        more = settings_for(judged.sql) if is_versioned else {}
        # The engine's wall behind the lists: without the role, what reaches out of the database is denied.
        connection.query("SET ROLE NONE")
        # Drivers look there for which settings can be changed, and readonly=1 would show none. The judge has seen those
        # that this statement itself sets.
        readonly = {"readonly": "2" if judged.reads_settings else "1"}
        self._prepare(connection, {**DEFAULTS, **self.settings, **judged.settings, **more, **readonly})
        if is_versioned:
            result, pieces = read_native(connection, judged, self.parameters, self.settings, self.version)
        else:
            result = connection.query(judged.sql, self.format, params=self.parameters)
            pieces = iter([result.bytes()])
        headers = self._headers(
            read_rows=result.storage_rows_read(), read_bytes=result.storage_bytes_read(), seconds=result.elapsed()
        )
        headers["X-ClickHouse-Format"] = answer_format
        # The engine's own copy of a large result goes first.
        del result
        return Response(self.pack(b"".join(pieces)), headers=headers, media_type="text/plain; charset=utf-8")

    def _write(self, connection: Any) -> Response:
        self._prepare(connection, _WRITER_SETTINGS | self.settings)
        insert = _INSERT_WITH_DATA.match(self.sql)
        if insert is not None:
            return self._insert(connection, insert, self.sql[insert.end() :])
        sql = self.sql.decode()
        result = connection.query(sql, self.format, params=self.parameters)
        headers = self._headers(
            read_rows=result.storage_rows_read(), read_bytes=result.storage_bytes_read(), seconds=result.elapsed()
        )
        if _GIVES_ROWS.match(sql):
            headers["X-ClickHouse-Format"] = self.format
        return Response(self.pack(result.bytes()), headers=headers, media_type="text/plain; charset=utf-8")

    def _prepare(self, connection: Any, settings: Mapping[str, str]) -> None:
        for name in settings:
            if not _SETTING_NAME.fullmatch(name):
                raise _Refused(f"Cannot modify {name[:64]!r} setting here", status=403, code=_READONLY)
        marked = {**settings, "log_comment": self._mark}
        connection.query("SET " + ", ".join(f"{name} = {sql_literal(value)}" for name, value in marked.items()))
        if self.database:
            connection.query("USE {database:Identifier}", params={"database": self.database})

    def _insert(self, connection: Any, insert: re.Match[bytes], data: bytes) -> Response:
        into, settings, data_format = (group.decode() for group in insert.groups(b""))
        # chDB's `send_insert` would not do: it reports success where the engine refused to write the block (chDB 4.4).
        if _FROM_INPUT.search(into):
            with from_file(into + settings, data_format, data) as statement:
                result = connection.query(statement)
        else:
            with NamedTemporaryFile(suffix=".data") as file:
                file.write(data)
                file.flush()
                from_infile = f"FROM INFILE {sql_literal(file.name)}"
                result = connection.query(f"{into} {from_infile}{settings} FORMAT {data_format}")
        # The rows that the statement read are those of the file, which were written.
        return Response(
            headers=self._headers(
                written_rows=result.rows_read(), written_bytes=result.bytes_read(), seconds=result.elapsed()
            )
        )

    def _headers(self, *, seconds: float, **counts: int) -> dict[str, str]:
        summary = {name: str(count) for name, count in counts.items()} | {"elapsed_ns": str(int(seconds * 1e9))}
        return {
            "X-ClickHouse-Query-Id": self.query_id,
            "X-ClickHouse-Summary": json.dumps(summary),
            "X-ClickHouse-Timezone": self.settings.get("session_timezone", "UTC"),
        }


def stop_queries(clickhouse: ClickHouse) -> None:
    """Stop all queries that came through the front."""
    _kill(clickhouse, "!= ''")


def _kill(clickhouse: ClickHouse, marks: str) -> None:
    connection = clickhouse.engine_connection()
    try:
        connection.query(f"KILL QUERY WHERE Settings['log_comment'] {marks} ASYNC", "Null")
    finally:
        connection.close()


def _check_origin(request: Request) -> None:
    """Refuse requests that come from a page in the user's browser: a page can reach a loopback port by a name of its
    own (DNS rebinding), or as another site."""
    origin = request.headers.get("origin")
    local = _LOCAL.fullmatch(request.headers.get("host", "")) and (origin is None or _LOCAL.fullmatch(origin))
    if not local or request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise _Refused("Answers only to localhost, 127.0.0.1 and [::1], and to no other site's page", status=403)


def _peer(request: Request) -> int | None:
    client, server = request.client, request.scope.get("server")
    return None if client is None or server is None else uid_of((client.host, client.port), (server[0], server[1]))


def _credentials(request: Request) -> tuple[str, str]:
    """The user's name and key of a request, each empty where it has none."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return "", value
    if scheme.lower() == "basic":
        try:
            user, _, key = base64.b64decode(value).decode().partition(":")
            return user, key
        except (binascii.Error, UnicodeDecodeError):
            return "", "not readable"
    params = request.query_params
    user = request.headers.get("x-clickhouse-user") or params.get("user", "")
    return user, request.headers.get("x-clickhouse-key") or params.get("password", "")


async def _body(request: Request, reader: bool) -> bytes:
    encoding = request.headers.get("content-encoding", "identity")
    if reader and encoding != "identity":
        raise _Refused(
            "Only an insert is compressed, and nothing is written here (READONLY)", status=403, code=_READONLY
        )
    limit = READER_BODY_BYTES_MAX if reader else WRITER_BODY_BYTES_MAX
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _Refused(f"The body is over {limit} bytes", status=413)
    if encoding == "identity":
        return bytes(body)
    if encoding not in _DECOMPRESSORS:
        raise _Refused(f"Content-Encoding {encoding!r} is not one of {', '.join(_DECOMPRESSORS)}", status=415)
    return bytes(_DECOMPRESSORS[encoding](bytes(body)))


def _engine_error(message: str) -> Response:
    message = message[max(0, message.find("Code: ")) :]
    found = re.match(r"Code: (\d+)", message)
    code = int(found[1]) if found else _HERE
    if code == _ACCESS_DENIED and "READ ON FILE" in message:
        return _error("There is no table of this name (UNKNOWN_TABLE)", 404, _UNKNOWN_TABLE)
    if code == _ACCESS_DENIED:
        return _error(ONLY, 403, _READONLY)
    return _error(message, _STATUS_OF_CODE.get(code, 500), code)


def _error(message: str, status: int, code: int) -> Response:
    headers = {"X-ClickHouse-Exception-Code": str(code)}
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="ClickHouse"'
    text = message if message.startswith("Code: ") else f"Code: {code}. DB::Exception: {message}"
    return Response(text + "\n", status, headers, media_type="text/plain; charset=utf-8")


def _escaped(value: str) -> str:
    """Escape a bound string, which the engine reads as it reads tab-separated text, escapes included."""
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
