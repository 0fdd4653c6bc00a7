"""The soft cap on calls without a valid key: each address has a window, and trusted proxies say whose call it is."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from typing import TypeVar

import httpx
import pytest

from api.app import create_app
from api.callers.addresses import AddressLimits, client_address
from schemas.accounts import Limits
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
    ],
)
def test_whose_address_counts(peer: str, forwarded_for: list[str], address: str) -> None:
    assert client_address(peer, forwarded_for, PROXIES) == address


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
    with pytest.raises(ValueError, match="trusted_proxies"):
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
        for path in ("/healthz", "/readyz", "/metrics"):
            assert stranger.get(path, headers=here).status_code == 200
        assert client.get("/v1/balance", headers=here).headers["x-ratelimit-limit"] == "1000000"
        assert operator.http.get("/v1/balance", params={"project": project}, headers=here).status_code == 200
        assert stranger.get("/v1/prices", headers={"x-forwarded-for": "198.51.100.34"}).status_code == 200
