"""An exchange of the real clickhouse-go with the front, recorded: Go and its modules are not to be had wherever tests
run. `uv run python -m tests.embedded.recorded` records it anew, where they are.
"""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from streams.clickhouse.client import ClickHouse
from streams.embedded.clickhouse_front import create_front
from streams.settings import Settings
from tests.engine import running

RECORD = Path(__file__).parents[1] / "golden" / "clickhouse-go-2.51.0.json"

TABLE = [
    "CREATE TABLE facts (id UInt64, name LowCardinality(String), amount Decimal(38, 0), at DateTime64(6, 'UTC'), "
    "metadata Map(String, String), note Nullable(String), rare UInt64) ENGINE = MergeTree ORDER BY id",
    "INSERT INTO facts SELECT number, 'n' || toString(number % 3), number * 1000001, "
    "toDateTime64('2026-01-02 03:04:05.678901', 6, 'UTC') + number, map('k', toString(number)), "
    "if(number % 2 = 0, NULL, 'odd'), number = 7 FROM numbers(1000)",
]
TYPES = (
    "a UInt8, b Int16, c UInt32, d Int64, e UInt128, f Int256, g Float32, h Float64, i Decimal(9, 2), j Decimal(76, 3),"
    "k String, l FixedString(5), m Date, n Date32, o DateTime('Europe/Paris'), p DateTime64(3), q UUID, r IPv4, s IPv6,"
    "t Enum8('x' = 1, 'y' = 2), u Bool, v Array(Array(String)), w Tuple(a UInt8, b String), "
    "x Map(LowCardinality(String), UInt64), y LowCardinality(Nullable(String)), z Array(LowCardinality(String))"
)
STATEMENTS = [
    "SELECT * FROM facts WHERE id < 9 ORDER BY id",
    "SELECT name, count(), sum(amount), max(at) FROM facts GROUP BY name ORDER BY name",
    "SELECT number FROM numbers(10) SETTINGS max_block_size = 3, max_threads = 1",
    "SELECT * FROM generateRandom('{}', 7, 9, 3) LIMIT 20".format(TYPES.replace("'", "\\'")),
    'SELECT NULL AS nothing, [] AS empty, 1 AS `it\'s a "name"` FORMAT Native',
    "SELECT * FROM facts WHERE id > 1000000",
    "SHOW TABLES",
    "DESCRIBE TABLE facts",
    "SELECT * FROM nowhere",
    "DROP TABLE facts",
    "SELECT sumState(id) FROM facts",
    "SELECT throwIf(number = 3) FROM numbers(10)",
]
COMPRESSIONS = ["none", "lz4", "zstd", "gzip"]
HELLO = "SELECT displayName(), version(), revision(), timezone()"


class Exchange(BaseModel):
    """One request that the driver sent, and the answer that it read."""

    query: str
    headers: dict[str, str]
    body: str
    status: int
    answer: str

    @property
    def answer_bytes(self) -> bytes:
        return base64.b64decode(self.answer)


class Session(BaseModel):
    """The driver's exchanges with one compression, and what it then told its user of each statement."""

    compression: str
    exchanges: list[Exchange]
    said: list[list[list[str]] | str]


SESSIONS = TypeAdapter(list[Session])


def sessions() -> list[Session]:
    return SESSIONS.validate_json(RECORD.read_text())


def _recording(app: Any, exchanges: list[Exchange]) -> Any:
    """An app that keeps what goes through another one."""

    async def recorded(
        scope: Any,
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        body, answer, status = bytearray(), bytearray(), 0

        async def received() -> MutableMapping[str, Any]:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            answer.extend(message.get("body", b""))
            await send(message)

        await app(scope, received, sent)
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            kept = {
                name: headers[name] for name in ("user-agent", "accept-encoding", "authorization") if name in headers
            }
            exchanges.append(
                Exchange(
                    query=scope["query_string"].decode(),
                    headers=kept,
                    body=body.decode(),
                    status=status,
                    answer=base64.b64encode(answer).decode(),
                )
            )

    return recorded


def _record() -> None:
    exchanges: list[Exchange] = []
    found = []
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "ask"
        subprocess.run(["go", "build", "-o", program, "."], cwd=Path(__file__).with_name("clickhouse_go"), check=True)
        clickhouse = ClickHouse(Settings(data_dir=Path(folder), clickhouse_url=None))
        for sql in TABLE:
            clickhouse.command(sql)
        with running(_recording(create_front(clickhouse), exchanges)) as url:
            for compression in COMPRESSIONS:
                exchanges.clear()
                done = subprocess.run(
                    [program, f"{url}/default?compress={compression}"],
                    input=json.dumps(STATEMENTS),
                    check=True,
                    capture_output=True,
                    text=True,
                )
                said = json.loads(done.stdout)
                found.append(Session(compression=compression, exchanges=list(exchanges), said=said))
        clickhouse.close()
    RECORD.write_bytes(SESSIONS.dump_json(found, indent=1) + b"\n")


if __name__ == "__main__":
    _record()
