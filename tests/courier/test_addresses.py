"""Requests go to public addresses alone: every spelling of another is refused, before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpx
import pytest
from httpx_secure import SSRFProtectionError, httpx_ssrf_protection
from hypothesis import example, given
from hypothesis import strategies as st

from streams.courier.addresses import Address, ForbiddenError, Resolver, is_public

# Spellings of hosts that lead inwards, each as a URL has it.
INWARD = [
    "127.0.0.1",
    "127.0.0.1.",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0X7F.0.0.1",
    "127.1",
    "127.0.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.01",
    "0",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.8",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[::127.0.0.1]",
    "[::ffff:8.8.8.8]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:7f00:1::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[100::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "[fec0::1]",
    "[2606:4700:4700::1111%25eth0]",
    "[ff02::1]",
    "[ff0e::1]",
    "%31%32%37.0.0.1",
    "127%2e0%2e0%2e1",
    "１２７.0.0.1",
    "127。0。0。1",
    "ⓛocalhost",
    "a..b",
    "host\\.example",
    "",
]
# URLs that are refused whatever the host is.
ODD = [
    "http://hooks.example/",
    "ftp://hooks.example/",
    "file:///etc/passwd",
    "gopher://hooks.example/",
    "hooks.example",
    "//hooks.example/",
    "https://user:password@hooks.example/",
    "https://hooks.example@127.0.0.1/",
    "https://127.0.0.1#@hooks.example/",
    "https://hooks.example:0/",
    "https://hooks.example:99999/",
    "https://hooks.example/a b",
    "https://hooks.example/\r\nHost: a",
    f"https://hooks.example/{'a' * 3000}",
]
PUBLIC = ["93.184.216.34", "8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001::200e"]


def is_address(text: str) -> bool:
    try:
        return isinstance(ip_address(text), IPv4Address | IPv6Address)
    except ValueError:
        return False


def answering(*answers: list[str]) -> Callable[[str, int], Awaitable[list[str]]]:
    """A look-up of names that has these answers, one after another."""
    waiting = list(answers)

    async def look_up(host: str, port: int) -> list[str]:
        return waiting.pop(0)

    return look_up


async def is_refused(resolver: Resolver, url: str, *, is_proxied: bool = False) -> bool:
    try:
        await resolver.place_of(url, is_proxied=is_proxied)
    except ForbiddenError as refused:
        assert not any(each.isdigit() for each in str(refused)), "the error tells no address"
        return True
    return False


@pytest.mark.asyncio
async def test_every_spelling_that_leads_inwards_is_refused_with_a_proxy_too() -> None:
    # The system itself looks these up, as it would in earnest.
    resolver = Resolver()
    for is_proxied in (False, True):
        urls = [f"https://{each}{port}/hook" for each in INWARD for port in ("", ":8443")]
        assert [each for each in urls if not await is_refused(resolver, each, is_proxied=is_proxied)] == []
    resolver.close()


@pytest.mark.asyncio
async def test_every_url_that_is_no_plain_https_url_is_refused() -> None:
    async def public(host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    assert [each for each in ODD if not await is_refused(Resolver(look_up=public), each)] == []


@pytest.mark.asyncio
async def test_a_public_name_has_a_place_with_its_addresses() -> None:
    place = await Resolver(look_up=answering(PUBLIC)).place_of("https://Hooks.Example.:8443/a?b=c")
    assert (place.host, place.port, place.path) == ("hooks.example", 8443, b"/a?b=c")
    assert list(place.addresses) == PUBLIC
    literal = await Resolver(look_up=answering()).place_of("https://[2606:4700:4700::1111]/")
    assert literal.addresses == ("2606:4700:4700::1111",)


@pytest.mark.asyncio
async def test_one_address_inwards_among_public_ones_refuses_the_name() -> None:
    for inward in ("127.0.0.1", "::1", "fe80::1%eth0", "::ffff:8.8.8.8", "2606:4700::1%eth0", "no address"):
        for answer in ([inward], [*PUBLIC, inward], [inward, *PUBLIC], []):
            assert await is_refused(Resolver(look_up=answering(answer)), "https://hooks.example/"), answer


@pytest.mark.asyncio
async def test_named_networks_are_reached_by_http_too_and_no_others() -> None:
    networks = [ip_network("10.1.0.0/16"), ip_network("fd00:1::/64")]
    for address in ("10.1.2.3", "fd00:1::2"):
        place = await Resolver(networks, answering([address])).place_of("http://inside.example:8080/")
        assert (place.scheme, place.addresses) == ("http", (address,))
    for answer in (["10.2.0.1"], ["10.1.0.1", "10.2.0.1"], ["10.1.0.1", "8.8.8.8"], ["::ffff:10.1.0.1"], ["127.0.0.1"]):
        assert await is_refused(Resolver(networks, answering(answer)), "http://inside.example/"), answer


def in_networks(*networks: str) -> st.SearchStrategy[Address]:
    return st.one_of([st.ip_addresses(network=each) for each in networks])


V4_INWARD = in_networks(
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
)
V6_INWARD = in_networks("::/8", "64:ff9b::/96", "64:ff9b:1::/48", "4000::/2", "8000::/1", "2001::/32", "2002::/16")


@given(V6_INWARD)
def test_no_part_of_ipv6_that_is_not_given_out_is_public(address: Address) -> None:
    assert not is_public(address)


@given(V4_INWARD, st.integers(min_value=0, max_value=2**64 - 1))
def test_no_wrapping_of_an_inward_address_is_public_in_any_spelling(inward: Address, rest: int) -> None:
    number = int(inward)
    wrapped = [
        IPv6Address(number),
        IPv6Address(0xFFFF << 32 | number),
        IPv6Address(0xFFFF << 48 | number),
        IPv6Address(0x64FF9B << 96 | number),
        IPv6Address(0x64FF9B0001 << 80 | number),
        IPv6Address(0x2002 << 112 | number << 80 | rest),
        IPv6Address(0x20010000 << 96 | number << 64 | rest),
        IPv6Address(0x20010000 << 96 | rest << 32 | (number ^ 0xFFFFFFFF)),
    ]
    assert not any(map(is_public, [inward, *wrapped]))
    octets = str(inward).split(".")
    spelt = [
        str(inward),
        f"{inward}.",
        str(number),
        hex(number),
        f"0{number:o}",
        ".".join(hex(int(each)) for each in octets),
        ".".join(f"0{int(each):o}" for each in octets),
        f"{octets[0]}.{number & 0xFFFFFF}",
        f"{octets[0]}.{octets[1]}.{number & 0xFFFF}",
        *(f"[{each}]" for each in wrapped),
        *(f"[{each.exploded}]" for each in wrapped),
    ]

    async def ask() -> list[str]:
        resolver = Resolver()
        return [each for each in spelt if not await is_refused(resolver, f"https://{each}/")]

    assert asyncio.run(ask()) == []


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(network="2000::/3")))
def test_what_is_public_is_global_to_python_too_and_little_else_is_refused(address: Address) -> None:
    # The parts that Python has for global, and that are not: 6to4, multicast, anycast and relays, Azure's own.
    parts = ("2001::/23", "2002::/16", "2620:4f:8000::/48", "3fff::/20", "224.0.0.0/4", "192.88.99.0/24")
    parts += ("192.31.196.0/24", "192.52.193.0/24", "192.175.48.0/24", "168.63.129.16/32", "192.0.0.0/24")
    is_apart = any(address in ip_network(each) for each in parts)
    assert is_public(address) == (address.is_global and not is_apart)


@given(
    st.lists(st.one_of(V4_INWARD, V6_INWARD, st.ip_addresses(v=4), st.ip_addresses(network="2000::/3")), max_size=20)
)
@example([ip_address(each.strip("[]")) for each in INWARD if is_address(each.strip("[]"))])
def test_whatever_httpx_secure_refuses_as_a_second_opinion_is_refused_here(addresses: list[Address]) -> None:
    async def refused_there() -> list[Address]:
        # It never connects: what it takes for public, its validator refuses in other words.
        client = httpx.AsyncClient(trust_env=False)
        httpx_ssrf_protection(client, custom_validator=lambda _host, _address, _port: False)
        refused = []
        async with client:
            for address in addresses:
                with pytest.raises(SSRFProtectionError, match=r"globally reachable|custom validation") as error:
                    await client.get(
                        f"https://[{address}]/" if isinstance(address, IPv6Address) else f"https://{address}/"
                    )
                if "globally reachable" in str(error.value):
                    refused.append(address)
        return refused

    assert [each for each in asyncio.run(refused_there()) if is_public(each)] == []
