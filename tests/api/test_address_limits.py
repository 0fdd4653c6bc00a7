"""The soft cap on calls without a valid key: each address has a window, and trusted proxies say whose call it is."""

import asyncio
import copy
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, TypeVar

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.app import create_app
from api.busyness import Busyness
from api.callers.addresses import SHARE_MIN, AddressLimits, client_address
from schemas.accounts import Limits
from streams.errors import OperatorError
from streams.settings import Settings
from tests.calls import Operator

PROXIES = [ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48")]
T = TypeVar("T")


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.7"], "203.0.113.9"),
        ("10.1.1.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.1.1.1", ["1.2.3.4, 198.51.100.7"], "198.51.100.7"),
        ("10.1.1.1", ["198.51.100.7, 10.2.2.2"], "198.51.100.7"),
        ("10.1.1.1", ["1.2.3.4", "198.51.100.7 ,10.2.2.2"], "198.51.100.7"),
        ("10.1.1.1", ["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        ("10.1.1.1", [], "10.1.1.1"),
        ("10.1.1.1", ["198.51.100.7, junk, 10.2.2.2"], "10.2.2.2"),
        ("10.1.1.1", ["198.51.100.7, "], "10.1.1.1"),
        ("10.1.1.1", ["999.1.1.1"], "10.1.1.1"),
        ("10.1.1.1", ["unknown"], "10.1.1.1"),
        ("10.1.1.1", ["2001:db8:2:3:4:5:6:7"], "2001:db8:2:3::/64"),
        ("2001:db8:1::1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("::ffff:10.1.1.1", ["198.51.100.7"], "198.51.100.7"),
        ("2001:db8:2:3::1", ["198.51.100.7"], "2001:db8:2:3::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("", ["198.51.100.7"], ""),
        ("10.1.1.1", ["198.51.100.7:567"], "198.51.100.7"),
        ("10.1.1.1", ["[2001:db8:2:3::1]:443"], "2001:db8:2:3::/64"),
        ("10.1.1.1", ["[2001:db8:2:3::1]"], "2001:db8:2:3::/64"),
        ("10.1.1.1", ["fe80::1%eth0"], "fe80::/64"),
        ("10.1.1.1", ["[fe80::1%25eth0]:443"], "fe80::/64"),
        ("10.1.1.1", ['"198.51.100.7:567"'], "198.51.100.7"),
        ("10.1.1.1", ['  "[2001:db8:2:3::1]:443" '], "2001:db8:2:3::/64"),
        ("10.1.1.1", ["1.2.3.4:1, 198.51.100.7:2,10.2.2.2:3"], "198.51.100.7"),
        ("10.1.1.1", ["198.51.100.7, [::ffff:10.2.2.2]:3"], "198.51.100.7"),
        ("10.1.1.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("10.1.1.1", ["\t198.51.100.7\t"], "198.51.100.7"),
        ("10.1.1.1", ["198.51.100.7:"], "10.1.1.1"),
        ("10.1.1.1", ["198.51.100.7:port"], "10.1.1.1"),
        ("10.1.1.1", ["198.51.100.7:1234567"], "10.1.1.1"),
        ("10.1.1.1", ["[198.51.100.7]:80"], "10.1.1.1"),
        ("10.1.1.1", ["[2001:db8:2:3::1"], "10.1.1.1"),
        ("10.1.1.1", ["2001:db8:2:3::1]:80"], "10.1.1.1"),
        ("10.1.1.1", ['"198.51.100.7'], "10.1.1.1"),
        ("10.1.1.1", ["198.51.100.7:٣"], "10.1.1.1"),
        ("10.1.1.1", ["_hidden"], "10.1.1.1"),
        ("10.1.1.1", ["for=198.51.100.7"], "10.1.1.1"),
        ("10.1.1.1", ["[]"], "10.1.1.1"),
        ("10.1.1.1", ["%eth0"], "10.1.1.1"),
    ],
)
def test_whose_address_counts(peer: str, forwarded_for: list[str], address: str) -> None:
    assert client_address(peer, forwarded_for, PROXIES) == address


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
PORTS = st.integers(0, 65_535).map(lambda port: f":{port}")
SPACES = st.text(" \t", max_size=3)


@st.composite
def entries(draw: st.DrawFn) -> tuple[IPv4Address | IPv6Address, str]:
    """An address, and one of the ways in which proxies write it."""
    address = draw(ADDRESSES)
    text, port = str(address), draw(st.one_of(st.just(""), PORTS))
    if isinstance(address, IPv4Address):
        text = draw(st.sampled_from((text, f"::ffff:{text}")))
    if ":" in text:
        text = draw(st.sampled_from((text, text.upper(), IPv6Address(text).exploded)))
        text += draw(st.sampled_from(("", "", "%eth0", "%25en1", "%7")))
        text = f"[{text}]{port}" if port else draw(st.sampled_from((text, f"[{text}]")))
    else:
        text += port
    text = draw(st.sampled_from((text, f'"{text}"')))
    return address, draw(SPACES) + text + draw(SPACES)


@given(entries(), st.lists(st.text(max_size=20), max_size=3), st.sampled_from((",", ", ", " ,\t")))
def test_however_a_proxy_writes_an_address_it_is_the_same_and_what_stands_left_of_it_does_not_count(
    entry: tuple[IPv4Address | IPv6Address, str], left: list[str], comma: str
) -> None:
    address, text = entry
    expected = client_address(str(address), [], [])
    assert client_address("10.1.1.1", [comma.join([*left, text])], PROXIES[:1]) in (
        # What stands left of a trusted one does count.
        [expected]
        if address not in PROXIES[0]
        else [client_address("10.1.1.1", [",".join(left)], PROXIES[:1]), expected]
    )
    assert client_address(text.strip(' \t"'), [], []) == expected


@given(st.text(max_size=60), st.lists(st.text('0123456789abcdef.:[]"%, \tx', max_size=40), max_size=3))
def test_no_header_is_an_error_and_nonsense_counts_as_a_proxy(text: str, lines: list[str]) -> None:
    for forwarded_for in ([text], lines):
        found = client_address("10.1.1.1", forwarded_for, PROXIES)
        assert ip_network(found)
    assert client_address("203.0.113.9", lines, PROXIES) == "203.0.113.9"


def test_it_is_the_window_of_projects_and_forgets_who_came_longest_ago() -> None:
    addresses = AddressLimits(Limits(2, 3, 0), addresses_max=2)
    assert [addresses.count("a", 1_000).retry_at_ms for _ in range(4)] == [0, 0, 0, 61_000]
    assert addresses.count("b", 1_000).remaining == 1
    assert addresses.count("a", 2_000).retry_at_ms == 61_000
    # A clock that is set back does no harm.
    assert addresses.count("a", 500).retry_at_ms == 61_000
    addresses.count("c", 3_000)
    assert addresses.count("a", 3_000).retry_at_ms == 61_000
    assert addresses.count("b", 3_000).remaining == 1, "it was forgotten"
    assert addresses.count("b", 70_000).remaining == 1


def test_while_the_process_is_busy_the_heaviest_are_held_to_a_fair_share_and_quiet_ones_do_not_notice() -> None:
    addresses = AddressLimits(Limits(300, 600, 0))
    passed: Counter[tuple[str, int]] = Counter()
    rates = {"heavy": 40, "middling": 2, "quiet": 1}
    for second in range(180):
        is_busy = 60 <= second < 120
        for address, each_second in rates.items():
            if address == "quiet" and second % 10:
                continue
            for _ in range(each_second):
                state = addresses.count(address, 1_000_000 + second * 1_000, is_busy)
                passed[address, second // 60] += not state.retry_at_ms
                assert address != "quiet" or (not state.retry_at_ms and state.limit >= SHARE_MIN)
    assert passed["middling", 0] == 120, "nobody was short of anything"
    assert passed["heavy", 0] > 500
    assert passed["heavy", 1] < 30, "the heaviest are stopped first"
    assert passed["heavy", 1] <= passed["middling", 1] + SHARE_MIN
    assert [passed["quiet", minute] for minute in range(3)] == [6, 6, 6]
    assert passed["heavy", 2] > 250 and passed["middling", 2] > 100, "it is over soon after"
    # One second of it costs the heaviest half, and a middling one nothing.
    addresses = AddressLimits(Limits(300, 600, 0))
    for _ in range(200):
        addresses.count("heavy", 1_000_000)
    for _ in range(100):
        addresses.count("middling", 1_000_000)
    assert addresses.count("heavy", 1_001_000, True).retry_at_ms
    assert not addresses.count("middling", 1_001_000, True).retry_at_ms


@given(st.lists(st.tuples(st.integers(0, 3_000), st.sampled_from("abc"), st.booleans()), max_size=150))
def test_nobody_is_stopped_who_asks_for_less_than_one_who_passes(steps: list[tuple[int, str, bool]]) -> None:
    addresses, now_ms, came = AddressLimits(Limits(30, 30, 0)), 1_000_000, list[tuple[int, str]]()
    for gap, address, is_busy in steps:
        now_ms += gap
        state = addresses.count(address, now_ms, is_busy)
        recent = sum(at > now_ms - 60_000 and who == address for at, who in came)
        assert not state.retry_at_ms or recent >= min(state.limit, SHARE_MIN)
        assert SHARE_MIN <= state.limit <= 30
        if not state.retry_at_ms:
            came.append((now_ms, address))


@given(
    st.lists(st.tuples(st.integers(0, 3_000), st.sampled_from("ab"), st.booleans(), st.integers(1, 30)), max_size=60)
)
def test_who_is_stopped_is_told_when_it_passes_also_while_its_share_grows_again(steps: list[Any]) -> None:
    addresses, now_ms = AddressLimits(Limits(30, 40, 0)), 1_000_000
    for gap, address, is_busy, many in steps:
        now_ms += gap
        for _ in range(many):
            state = addresses.count(address, now_ms, is_busy)
        if state.retry_at_ms:
            assert now_ms < state.retry_at_ms <= now_ms + 60_000
            for at_ms in (state.retry_at_ms - 1, state.retry_at_ms, state.retry_at_ms + 999):
                later = copy.deepcopy(addresses)
                if at_ms > state.retry_at_ms - 1_000:
                    # Others may call, as long as this one does not.
                    later.count("c", (now_ms + at_ms) // 2)
                assert bool(later.count(address, at_ms).retry_at_ms) == (at_ms < state.retry_at_ms)


def test_a_loop_that_is_late_for_a_second_is_busy_and_one_pause_is_not() -> None:
    busyness = Busyness(50)
    busyness.note(200)
    assert not busyness.is_busy
    for _ in range(10):
        busyness.note(100)
    assert busyness.is_busy
    for _ in range(10):
        busyness.note(1)
    assert not busyness.is_busy

    async def work() -> float:
        probing = asyncio.create_task(busyness.run())
        for _ in range(4):
            await asyncio.sleep(0.05)
            time.sleep(0.4)
        await asyncio.sleep(0.05)
        probing.cancel()
        return busyness.lag_ms

    assert asyncio.run(work()) > 50


def asked(use: Callable[[Callable[..., httpx.AsyncClient]], Awaitable[T]], **settings: object) -> T:
    """The result of `use`, which is given an app of its own that clients reach from addresses of their choice."""
    app = create_app(
        Settings.model_validate({"public_requests_per_minute": 3, "public_burst": 5, "trusted_proxies": []} | settings)
    )

    def from_address(address: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 1)), base_url="http://api")

    async def run() -> T:
        return await use(from_address)

    return asyncio.run(run())


def test_an_address_over_its_cap_is_stopped_and_others_are_not() -> None:
    async def use(from_address: Callable[..., httpx.AsyncClient]) -> None:
        client = from_address("203.0.113.9")
        for path, left in (("/docs", 2), ("/openapi.json", 1), ("/v1/nothing", 0), ("/v1/nothing", 0), ("/docs", 0)):
            answer = await client.get(path)
            assert answer.status_code in (200, 404)
            assert answer.headers["x-ratelimit-limit"] == "3"
            assert (int(answer.headers["x-ratelimit-remaining"]), "retry-after" in answer.headers) == (left, False)
        stopped = await client.get("/openapi.json", headers={"x-request-id": "req_mine"})
        problem = stopped.json()
        assert (stopped.status_code, problem["code"], problem["instance"]) == (429, "rate_limited", "req_mine")
        seconds = int(stopped.headers["retry-after"])
        assert 0 < seconds <= 60
        assert f"address 203.0.113.9. Retry after {seconds} seconds" in problem["detail"]
        assert (await client.get("/healthz")).status_code == 200
        assert (await from_address("203.0.113.10").get("/openapi.json")).status_code == 200

    asked(use)


def test_a_body_over_the_cap_is_not_read() -> None:
    async def use(from_address: Callable[..., httpx.AsyncClient]) -> None:
        client, read = from_address("203.0.113.9"), []

        async def body():
            read.append(1)
            yield b"{}"

        for _ in range(5):
            await client.get("/openapi.json")
        assert (await client.post("/v1/events", content=body())).status_code == 429
        assert read == []

    asked(use)


def test_forwarded_addresses_are_believed_of_trusted_proxies_alone() -> None:
    async def use(from_address: Callable[..., httpx.AsyncClient]) -> list[str]:
        left = []
        for peer in ("10.0.0.1", "10.0.0.1", "203.0.113.9", "203.0.113.9"):
            for address in ("198.51.100.1", "198.51.100.2"):
                headers = {"x-forwarded-for": address}
                answer = await from_address(peer).get("/openapi.json", headers=headers)
                left.append(answer.headers["x-ratelimit-remaining"])
        return left

    assert asked(use, trusted_proxies=["10.0.0.0/8"]) == ["2", "2", "1", "1", "2", "1", "0", "0"]


@pytest.mark.parametrize("wrong", [["10.0.0.1/8"], ["proxy"], "10.0.0.1"])
def test_a_proxy_that_is_no_address_is_an_error_at_the_start(wrong: object) -> None:
    with pytest.raises((ValueError, OperatorError), match=r"trusted_proxies|METERLINE_TRUSTED_PROXIES"):
        Settings.model_validate({"trusted_proxies": wrong})


def test_trusted_proxies_reach_the_processes_that_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate({"trusted_proxies": ["10.0.0.1", "2001:db8::/32"]})
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings().trusted_proxies == settings.trusted_proxies


def test_whoever_has_a_valid_key_is_not_held_to_the_address(operator: Operator) -> None:
    """The whole stack trusts the proxy that this test pretends to be."""
    here = {"x-forwarded-for": "198.51.100.33"}
    project, client = operator.customer()
    revoked = operator.key(project)
    operator.http.delete(f"/v1/admin/projects/{project}/keys/{revoked['key_id']}")
    with operator.client(None) as stranger, operator.client(revoked["key"]) as former:
        first = former.get("/v1/balance", headers=here)
        assert (first.status_code, first.headers["x-ratelimit-limit"]) == (401, "300")
        answers = [stranger.get("/v1/prices", headers=here) for _ in range(599)]
        assert {answer.status_code for answer in answers} == {200}
        assert stranger.get("/v1/prices", headers=here).status_code == 429
        assert former.get("/v1/balance", headers=here).status_code == 429
        assert operator.client("mtl_live_ghost.secret").get("/v1/balance", headers=here).status_code == 429
        for path in ("/healthz", "/readyz"):
            assert stranger.get(path, headers=here).status_code == 200
        assert client.get("/v1/balance", headers=here).headers["x-ratelimit-limit"] == "1000000"
        assert operator.http.get("/v1/balance", params={"project": project}, headers=here).status_code == 200
        assert stranger.get("/v1/prices", headers={"x-forwarded-for": "198.51.100.34"}).status_code == 200
