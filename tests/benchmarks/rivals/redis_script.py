"""The yardstick of bench admission: Redis, on a private server, with one Lua script that decides window and balance."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from schemas.events import UsageEvent
from schemas.prices import FIRST_PRICE_BOOK
from streams.embedded import lifeline
from tests.benchmarks.rivals.rival import START_SECONDS_MAX, BaselineError
from tests.benchmarks.workload import OPENING_BALANCE, Workload

NOT_INSTALLED = "Redis is not installed: apt-get install redis-server"
NO_CLIENT = "redis-py is not installed: uv sync --group bench"
DOES_NOT_GIVE = (
    "no ledger, history or receipts; no deduplication or stored replies: a repeat is charged again; no plan gate, cost "
    "ceiling, holds, price versions, grants that expire or environments, but one number a project; a failover may lose "
    "what was answered"
)

# The script decides as streams/core/windows.py does. Balances are microcredits below 2**53, so Lua's numbers are exact.
# ARGV: cost, limit, burst, and the time in ms, or 0 for the server's own.
SCRIPT = """
local cost, limit, burst, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if now == 0 then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local account, arrivals = KEYS[1], KEYS[2]
local kept = redis.call('HMGET', account, 'balance', 'requests', 'spent', 'at', 'last', 'in_last')
local balance, requests, spent = tonumber(kept[1]), tonumber(kept[2] or 0), tonumber(kept[3] or 0)
local at, last, in_last = tonumber(kept[4] or now), tonumber(kept[5] or 0), tonumber(kept[6] or 0)
if not balance then return {404, 0, 0} end

-- The newest entry stands in the account, the older ones in the list: ms and requests alternately.
local function falls_to(most)
    local left, when, entries = requests, 0, redis.call('LRANGE', arrivals, 0, -1)
    for place = 1, #entries, 2 do
        if left <= most then return when end
        left, when = left - entries[place + 1], entries[place] + 60000
    end
    if left <= most then return when end
    return last + 60000
end
local function second(ms) return math.floor(ms / 1000) end
local function merge_seconds()
    local entries, amount = redis.call('LRANGE', arrivals, 0, -1), 0
    redis.call('DEL', arrivals)
    for place = 1, #entries, 2 do
        amount = amount + entries[place + 1]
        if not entries[place + 2] or second(entries[place + 2]) ~= second(entries[place]) then
            redis.call('RPUSH', arrivals, entries[place], amount)
            amount = 0
        end
    end
end
local below_since = at
if requests >= limit then below_since = math.max(at, falls_to(limit - 1)) end
spent = math.min(spent, math.max(0, burst - limit) * 60000)
if now > below_since then spent = math.max(0, spent - (now - below_since) * limit) end
while true do
    local oldest = redis.call('LINDEX', arrivals, 0)
    if not oldest or oldest + 60000 > now then break end
    local gone = redis.call('LPOP', arrivals, 2)
    requests = requests - gone[2]
end
if in_last > 0 and last + 60000 <= now then requests, in_last = requests - in_last, 0 end

local passes = requests < limit
if not passes and spent + 60000 <= math.max(0, burst - limit) * 60000 then
    spent, passes = spent + 60000, true
end
local status, retry = 200, 0
if passes then
    local is_full = redis.call('LLEN', arrivals) >= 126
    if in_last > 0 and last ~= now and not (is_full and second(last) == second(now)) then
        redis.call('RPUSH', arrivals, string.format('%d', last), in_last)
        in_last = 0
        if is_full then merge_seconds() end
    end
    last, in_last, requests = now, in_last + 1, requests + 1
    if cost > balance then status = 402 else balance = balance - cost end
else
    status, retry = 429, falls_to(limit - 1)
end
redis.call('HSET', account, 'balance', string.format('%d', balance), 'requests', requests, 'spent',
    string.format('%d', spent), 'at', string.format('%d', math.max(at, now)), 'last', string.format('%d', last),
    'in_last', in_last)
return {status, math.max(0, limit - requests), retry}
"""


def missing() -> str | None:
    """The name of what has to be installed first, or None."""
    if shutil.which("redis-server") is None:
        return NOT_INSTALLED
    return NO_CLIENT if find_spec("redis") is None else None


@contextmanager
def server(*, fsync: bool) -> Iterator[str]:
    """A Redis server that runs while its block does; gives its address. With `fsync`, an answer waits until its write
    is on disk."""
    with tempfile.TemporaryDirectory(prefix="meterline-redis-", ignore_cleanup_errors=True) as scratch:
        directory, port = Path(scratch), lifeline.free_port()
        options = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": scratch,
            "save": "",
            "appendonly": "yes" if fsync else "no",
            "appendfsync": "always",
        }
        argv = [
            shutil.which("redis-server") or "",
            *(part for name, value in options.items() for part in (f"--{name}", value)),
        ]
        child = lifeline.start("redis", argv, log_path=directory / "log", guarded=True)
        try:
            _await_answer(child, port, directory / "log")
            yield f"redis://127.0.0.1:{port}"
        finally:
            child.stop()


def prepare(address: str, projects: int) -> None:
    """Give each project its opening balance."""
    import redis

    with redis.Redis.from_url(address) as client:
        pipeline = client.pipeline(transaction=False)
        for project in Workload(0, projects).project_ids():
            pipeline.hset(f"{{{project}}}", "balance", OPENING_BALANCE)
        pipeline.execute()


def spent_microcredits(address: str, projects: int) -> int:
    """The microcredits that all projects together have spent since `prepare`."""
    import redis

    with redis.Redis.from_url(address) as client:
        pipeline = client.pipeline(transaction=False)
        for project in Workload(0, projects).project_ids():
            pipeline.hget(f"{{{project}}}", "balance")
        return sum(OPENING_BALANCE - int(balance) for balance in pipeline.execute())


@asynccontextmanager
async def redis_way(
    address: str, callers: int, limit: int, burst: int
) -> AsyncIterator[Callable[[int, UsageEvent], Awaitable[int]]]:
    """The function with which a caller asks this server, over a connection of its own."""
    from redis.asyncio import Redis

    clients = [Redis.from_url(address, single_connection_client=True) for _ in range(callers)]
    sha = await clients[0].script_load(SCRIPT)
    rates = FIRST_PRICE_BOOK.rates

    async def ask(caller: int, event: UsageEvent) -> int:
        cost = rates[event.data.operation] * (event.data.quantity or 1)
        project = f"{{{event.subject}}}"
        answer: Any = await clients[caller].evalsha(sha, 2, project, project + ":w", cost, limit, burst, 0)
        return int(answer[0])

    try:
        yield ask
    finally:
        await asyncio.gather(*(client.aclose() for client in clients))


def _await_answer(child: lifeline.Child, port: int, log_path: Path) -> None:
    import redis

    deadline = time.monotonic() + START_SECONDS_MAX
    with redis.Redis(port=port) as client:
        while time.monotonic() < deadline and child.poll() is None:
            try:
                client.ping()
            except redis.ConnectionError:
                time.sleep(0.02)
            else:
                return
    log = "\n".join(log_path.read_text(errors="replace").splitlines()[-15:])
    raise BaselineError(f"Redis did not start. The end of its log:\n{log}")
