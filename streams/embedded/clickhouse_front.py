"""The front serves the embedded ClickHouse engine by ClickHouse's HTTP protocol: to curl, clickhouse_connect, tools of
analysts.

It answers on the machine's own names only and, unless told otherwise, lets nothing be written. It does not know
multipart forms, sessions, response compression (always `identity`) and the `compress`/`decompress` block format.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import uuid
from collections.abc import Callable
from tempfile import NamedTemporaryFile
from typing import Any

import anyio
import anyio.to_thread
import cramjam
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from streams.clickhouse.client import ClickHouse, ClickHouseError, from_file, sql_literal

QUERIES_AT_ONCE_MAX = 8
READER_BODY_BYTES_MAX = 1024 * 1024
WRITER_BODY_BYTES_MAX = 512 * 1024 * 1024

# A result is built in memory before it is sent, so that a failed query never looks like a short result.
_DEFAULT_SETTINGS = {
    "session_timezone": "UTC",
    "max_execution_time": "300",
    "max_result_bytes": str(256 * 1024 * 1024),
    "result_overflow_mode": "throw",
}
_NOT_ENGINE_SETTINGS = re.compile(
    r"param_.*|query|query_id|database|default_format|user|password|session_(id|timeout|check)|close_session|quota_key"
    r"|role|buffer_size|wait_end_of_query|client_protocol_version|enable_http_compression|(de)?compress"
    r"|send_progress_in_http_headers|http_headers_progress_interval_ms"
)
# Settings that write a file, or choose a grammar that `_check_reads` does not read; readonly=1 guards against the rest.
_SETTINGS_REFUSED_TO_READERS = frozenset({"readonly", "output_format_schema", "dialect"})
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUERY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LOCAL = re.compile(r"(https?://)?(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)

_INSERT_WITH_DATA = re.compile(
    rb"\s*(INSERT\s+INTO\s.+?)(\s+SETTINGS\s.+?)?\s+FORMAT\s+(\w+)[ \t]*(?:\r?\n|$)", re.IGNORECASE | re.DOTALL
)
_FROM_INPUT = re.compile(r"\sSELECT\s.*\sFROM\s+input\(", re.IGNORECASE | re.DOTALL)
_GIVES_ROWS = re.compile(r"[\s(]*(SELECT|WITH|FROM|SHOW|DESC|DESCRIBE|EXPLAIN|EXISTS)\b", re.IGNORECASE)
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)(?:\s+SETTINGS\b.*)?[\s;]*$", re.IGNORECASE | re.DOTALL)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`", re.DOTALL)
# Statements that the engine allows under readonly=1 though they reach out of the database: writing a file, the function
# `file` (also by name alone, in APPLY or arrayMap), the columns of a foreign source, and looking for an object of this
# process. Found by trying.
_REACHES_OUT = re.compile(r"\bINTO OUTFILE\b|\bfile\b|\bDESCRIBE TABLE \w+\(|\bpython\(", re.IGNORECASE)
_READONLY, _AUTHENTICATION_FAILED = 164, 516
_STATUS_OF_CODE = {
    _READONLY: 403,
    _AUTHENTICATION_FAILED: 401,
    36: 400,
    47: 404,
    60: 404,
    62: 400,
    81: 404,
    115: 400,
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


def create_front(clickhouse: ClickHouse, *, read_only: bool = True, token: str | None = None) -> Starlette:
    """Create an ASGI app to serve on a loopback address. `clickhouse` must be embedded, or ClickHouseError is raised.

    With a `token`, a request needs it as a bearer token, as `X-ClickHouse-Key` or as the password of basic
    authentication. A GET never writes; a POST may where `read_only` is false.
    """
    clickhouse.engine_connection().close()
    limiter = anyio.CapacityLimiter(QUERIES_AT_ONCE_MAX)

    async def answer(request: Request) -> Response:
        try:
            _check_origin(request)
            if request.url.path == "/ping" or (request.method != "POST" and not request.url.query):
                return Response("Ok.\n", media_type="text/plain")
            if token is not None and not hmac.compare_digest(_key(request).encode(), token.encode()):
                raise _Refused("Wrong or missing access key", status=401, code=_AUTHENTICATION_FAILED)
            reader = read_only or request.method != "POST"
            statement = _Statement(request, await _body(request, reader), reader)
            return await anyio.to_thread.run_sync(statement.run, clickhouse, limiter=limiter)
        except _Refused as refused:
            return _error(str(refused), refused.status, refused.code)
        except (RuntimeError, ClickHouseError) as error:  # RuntimeError is what chDB raises
            return _engine_error(str(error))
        except (UnicodeDecodeError, cramjam.DecompressionError) as error:
            return _error(f"The body cannot be read: {error}", 400, 36)

    routes = [Route("/", answer, methods=["GET", "POST"]), Route("/ping", answer, methods=["GET"])]
    return Starlette(routes=routes)


class _Statement:
    """The statement of one request: SQL, data, parameters and settings, run on an engine connection of its own."""

    def __init__(self, request: Request, body: bytes, reader: bool) -> None:
        params = dict(request.query_params)
        if params.get("compress") == "1" or params.get("decompress") == "1":
            raise _Refused("compress and decompress are not spoken here; use Content-Encoding", status=501, code=48)
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
        self.settings = {name: value for name, value in params.items() if not _NOT_ENGINE_SETTINGS.fullmatch(name)}

    def run(self, clickhouse: ClickHouse) -> Response:
        connection = clickhouse.engine_connection()
        try:
            for name, value in (_DEFAULT_SETTINGS | self.settings).items():
                if not _SETTING_NAME.fullmatch(name) or (self.reader and name in _SETTINGS_REFUSED_TO_READERS):
                    raise _Refused(f"Cannot modify {name!r} setting here", status=403, code=_READONLY)
                connection.query(f"SET {name} = {sql_literal(value)}")
            if self.database:
                connection.query("USE {database:Identifier}", params={"database": self.database})
            insert = None if self.reader else _INSERT_WITH_DATA.match(self.sql)
            if insert is not None:
                return self._insert(connection, insert, self.sql[insert.end() :])
            return self._query(connection, self.sql.decode())
        finally:
            connection.close()

    def _query(self, connection: Any, sql: str) -> Response:
        if self.reader:
            _check_reads(connection, sql)
            connection.query("SET readonly = 1")
        result = connection.query(sql, self.format, params=self.parameters)
        headers = self._headers(read_rows=result.rows_read(), read_bytes=result.bytes_read(), seconds=result.elapsed())
        if _GIVES_ROWS.match(sql):
            named = _FORMAT.search(sql)
            headers["X-ClickHouse-Format"] = named[1] if named else self.format
        return Response(result.bytes(), headers=headers, media_type="text/plain; charset=utf-8")

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


def _check_reads(connection: Any, sql: str) -> None:
    """Refuse a statement that does more than read the database, even one that readonly=1 lets through.

    The engine's own parser gives the text that is judged: one statement, no comments, keywords in capitals, names
    quoted only where they must be.
    """
    formatted = connection.query("SELECT formatQuerySingleLine({sql:String})", "TSVRaw", params={"sql": _escaped(sql)})
    bare = _QUOTED.sub("''", formatted.bytes().decode())
    if not _GIVES_ROWS.match(bare) or _REACHES_OUT.search(bare):
        raise _Refused(
            "Only SELECT, SHOW, DESCRIBE, EXPLAIN and EXISTS of what is in the database are allowed here (READONLY)",
            status=403,
            code=_READONLY,
        )


def _check_origin(request: Request) -> None:
    """Refuse requests that come from a page in the user's browser: a page can reach a loopback port by a name of its
    own (DNS rebinding), or as another site."""
    origin = request.headers.get("origin")
    local = _LOCAL.fullmatch(request.headers.get("host", "")) and (origin is None or _LOCAL.fullmatch(origin))
    if not local or request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise _Refused("Answers only to localhost, 127.0.0.1 and [::1], and to no other site's page", status=403)


def _key(request: Request) -> str:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return request.headers.get("x-clickhouse-key", "")


async def _body(request: Request, reader: bool) -> bytes:
    encoding = request.headers.get("content-encoding", "identity")
    if reader and encoding != "identity":
        raise _Refused(
            "Only an insert is compressed, and nothing is written here (READONLY)", status=403, code=_READONLY
        )
    if "multipart/" in request.headers.get("content-type", ""):
        raise _Refused("Multipart forms are not spoken here; send the query as text", status=415)
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
    code = int(found[1]) if found else 1002
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
