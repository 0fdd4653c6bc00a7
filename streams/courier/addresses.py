"""Addresses that requests to strangers' URLs may go to: public ones, however they are spelt, and networks that the
operator has named. Why by list: docs/decisions/0064."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NoReturn

import httpx

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[list[str]]]

URL_CHARS_MAX = 2048
# More names are looked up at once only by waiting: each look-up takes a thread, and a slow one 10 seconds and more.
LOOK_UPS_MAX = 64

# All that is not here is no public address: of IPv6 one eighth is given out, and the rest leads inwards or nowhere.
_GIVEN_OUT: Final = (ip_network("0.0.0.0/0"), ip_network("2000::/3"))
# Parts of these that are for something else: IANA's registries of special-purpose addresses.
_SPECIAL: Final = tuple(
    ip_network(each)
    for each in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        # Azure's own, which only its machines reach, and which tells their secrets.
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        # Teredo and others that wrap an IPv4 address, or are of no network.
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
# A URL's host that ends in a number is an IPv4 address to browsers and resolvers, in whatever base it is written.
_ENDS_IN_NUMBER: Final = re.compile(r"(?:.*\.)?(?:\d+|0x[0-9a-f]*)", re.ASCII | re.IGNORECASE)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII | re.IGNORECASE)


class ForbiddenError(Exception):
    """An error in where a request would go; the message is for whoever chose the URL, and tells no address."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place to connect to: `host` is the URL's, which TLS and the header Host name, and `addresses` are those to
    connect to, each of them checked."""

    scheme: str
    host: str
    port: int
    path: bytes
    addresses: tuple[str, ...]


def is_public(address: Address) -> bool:
    """Whether an address is one that a host on the Internet may have: global, unicast, and wrapping no other one."""
    return (
        any(address in each for each in _GIVEN_OUT)
        and not any(address in each for each in _SPECIAL)
        and address.is_global
        and not address.is_multicast
    )


def place_of(url: str) -> tuple[httpx.URL, Address | None]:
    """A URL that may be asked, read, and its address where its host is one. Raises ForbiddenError for a host that is
    spelt as no name or address should be, and for what only looks like a URL."""
    if len(url) > URL_CHARS_MAX or not url.isascii() or not url.isprintable() or "\\" in url or " " in url:
        raise ForbiddenError("this is no URL of printable ASCII characters")
    try:
        read = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise ForbiddenError("this is no URL") from None
    if read.scheme not in ("https", "http"):
        raise ForbiddenError("only https URLs are asked")
    if read.userinfo:
        raise ForbiddenError("a URL has no user name or password in it")
    if read.port is not None and not 0 < read.port < 65536:
        raise ForbiddenError("the URL's port is none")
    host = read.host
    if ":" in host:
        try:
            # With a zone it is of one machine's interface.
            return read, IPv6Address(host) if "%" not in host else _forbid()
        except ValueError:
            _forbid()
    if _ENDS_IN_NUMBER.fullmatch(host.removesuffix(".")):
        try:
            return read, IPv4Address(host)
        except ValueError:
            _forbid()
    if not all(_LABEL.fullmatch(each) for each in host.removesuffix(".").split(".")) or len(host) > 253:
        _forbid()
    return read, None


class Resolver:
    """A resolver gives a URL's place, with addresses that were all checked: nobody asks for them again.

    `networks` may be reached though they are private, and by http too.
    """

    def __init__(self, networks: Sequence[Network] = (), look_up: Resolve | None = None) -> None:
        self._networks = tuple(networks)
        self._look_up = look_up or self._ask_system
        self._threads = ThreadPoolExecutor(LOOK_UPS_MAX, thread_name_prefix="resolver")
        self._asked: dict[str, asyncio.Future[list[str]]] = {}

    async def place_of(self, url: str, *, is_proxied: bool = False) -> Place:
        """The place of a URL. With `is_proxied` a name is left to the proxy to look up, and has no addresses here.
        Raises ForbiddenError, also for a name that has no address: whoever asks learns nothing of names inside."""
        read, literal = place_of(url)
        port = read.port or (443 if read.scheme == "https" else 80)
        given: list[Address]
        if literal is not None:
            given = [literal]
        elif is_proxied:
            if read.scheme != "https":
                raise ForbiddenError("only https URLs are asked")
            if read.host.removesuffix(".").rpartition(".")[2] == "localhost":
                raise ForbiddenError("the URL's host has no public address, or not only such")
            given = []
        else:
            given = _addresses(await self._look_up(read.host, port))
        if not (given or is_proxied) or not all(self._is_named(each) or is_public(each) for each in given):
            raise ForbiddenError("the URL's host has no public address, or not only such")
        if read.scheme != "https" and not all(map(self._is_named, given)):
            raise ForbiddenError("only https URLs are asked")
        host = read.host.removesuffix(".")
        return Place(read.scheme, host, port, read.raw_path, tuple(dict.fromkeys(map(str, given))))

    def close(self) -> None:
        """Take no more look-ups; those that run end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _is_named(self, address: Address) -> bool:
        return any(address in each for each in self._networks)

    async def _ask_system(self, host: str, port: int) -> list[str]:
        """The addresses of a name, as the system knows them. Those who ask for one name at once share a look-up, so a
        slow name takes one thread, however many wait for it."""
        asked = self._asked.get(host)
        if asked is None:
            loop = asyncio.get_running_loop()
            asked = self._asked[host] = loop.run_in_executor(self._threads, _getaddrinfo, host, port)
            asked.add_done_callback(lambda _done: self._asked.pop(host, None))
        return await asyncio.shield(asked)


def _getaddrinfo(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, ValueError):
        return []
    return [str(each[4][0]) for each in found]


def _addresses(texts: Sequence[str]) -> list[Address]:
    """Addresses by their texts. An address with a zone is of one interface. Raises ForbiddenError."""
    try:
        return [ip_address(each) if "%" not in each else _forbid() for each in texts]
    except ValueError:
        return _forbid()


def _forbid() -> NoReturn:
    raise ForbiddenError("the URL's host is no name, and no address in its usual form")
