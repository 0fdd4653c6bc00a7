"""The soft cap on calls without a valid key: a sliding window for each address, in this process alone.

A caller with a valid key is not held to it, so nobody can shut out a customer behind the same address.

While the process is busy the cap is lower, and lower each second, until it is not: the addresses that ask for most are
stopped first, and all of them at one level, their fair share; who asks for less than that does not notice. Then it
rises again. Source: rate-limits, "Abuse, fairness, and quiet limits".
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from msgspec.structs import replace

from schemas.accounts import Limits, Window
from schemas.replies import RateState
from streams.core.windows import count_request, request_retry_at_ms, rested

ADDRESSES_MAX = 100_000
# However busy the process is, an address may make so many requests a minute.
SHARE_MIN = 10
_ADAPT_MS = 1000
_IPV6_NETWORK_BITS = 64
_PEERS_KEPT = 4096

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def client_address(peer: str, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str:
    """The address that a request came from: the peer's, or, where the peer is a trusted proxy, the rightmost entry of
    X-Forwarded-For that is not one.

    Entries that a client wrote itself stand further left. An entry that is no address ends the walk: the request then
    counts as the last trusted proxy's. An IPv6 address is given as its /64, since that is what one customer has. The
    result is "" where the peer has no address.
    """
    found = _parsed_peer(peer)
    if found is None:
        return ""
    entries = [entry for line in forwarded_for for entry in line.split(",")]
    while entries and any(found in network for network in trusted):
        further = _parsed(entries.pop())
        if further is None:
            break
        found = further
    if isinstance(found, IPv4Address):
        return str(found)
    return str(IPv6Network((int(found), _IPV6_NETWORK_BITS), strict=False))


def is_trusted(peer: str, trusted: Sequence[Network]) -> bool:
    """Whether a peer is a trusted proxy."""
    found = _parsed(peer)
    return found is not None and any(found in network for network in trusted)


# Some proxies write the port with the address, then with an IPv6 address in brackets, and some all of it in quotes.
_ENTRY = re.compile(r'\s*("?)(?:\[([^\[\]"]*)\](?::\d{1,5})?|([^:\[\]"]*):\d{1,5}|([^\[\]"]*))\1\s*', re.ASCII)


def _parsed(text: str) -> Address | None:
    """The address of an entry, which may bear a port, brackets, quotes and a zone; None where it is no address."""
    entry = _ENTRY.fullmatch(text)
    if entry is None:
        return None
    bare = entry[2] or entry[3] or entry[4] or ""
    try:
        # A zone is of the machine that wrote it.
        found = ip_address(bare.partition("%")[0].strip())
    except ValueError:
        return None
    if entry[2] is not None and isinstance(found, IPv4Address):
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


# A peer calls again and again, and is read anew each time no more. What clients wrote is not kept: it may be long.
_parsed_peer = lru_cache(_PEERS_KEPT)(_parsed)


@dataclass(slots=True)
class _Visitor:
    window: Window
    refused_key: bytes = b""


class AddressLimits:
    """The windows of the addresses that called most recently; at `addresses_max` the one that has not called for
    longest is forgotten."""

    def __init__(self, limits: Limits, addresses_max: int = ADDRESSES_MAX) -> None:
        self._limits = limits
        # What one address may make a minute now, at most `requests_per_minute`.
        self._share = limits.requests_per_minute
        self._adapted_ms = 0
        self._addresses_max = addresses_max
        self._visitors: OrderedDict[str, _Visitor] = OrderedDict()

    def count(self, address: str, now_ms: int, is_busy: bool = False) -> RateState:
        """Count a request in its address' window, unless that is full; the window's state says which, and when the same
        request would pass if the process has enough for all by then. `is_busy` says that it has not now."""
        self._adapt(now_ms, is_busy)
        visitor = self._visitors.get(address)
        if visitor is None:
            visitor = self._visitors[address] = _Visitor(rested(now_ms))
            if len(self._visitors) > self._addresses_max:
                self._visitors.popitem(last=False)
        self._visitors.move_to_end(address)
        now_ms = max(now_ms, visitor.window.at_ms)
        state = count_request(visitor.window, self._limits_of(self._share), now_ms)
        return self._told(state, visitor.window, now_ms) if state.retry_at_ms else state

    def _told(self, state: RateState, window: Window, now_ms: int) -> RateState:
        """The state of a full window, with the time at which it lets a request pass, as the share grows meanwhile."""
        share, from_ms, grows_ms = self._share, now_ms, max(now_ms, self._adapted_ms + _ADAPT_MS)
        while True:
            passes_ms = max(from_ms, request_retry_at_ms(window, self._limits_of(share)))
            if passes_ms < grows_ms or share == self._limits.requests_per_minute:
                return replace(state, retry_at_ms=passes_ms)
            share, from_ms, grows_ms = self._grown(share), grows_ms, grows_ms + _ADAPT_MS

    def _adapt(self, now_ms: int, is_busy: bool) -> None:
        """Halve the share once a second while the process is busy; else let it grow by a quarter each second."""
        seconds = (now_ms - self._adapted_ms) // _ADAPT_MS
        if seconds < 1:
            return
        # Whole seconds, so that it grows by the clock, whoever calls between.
        self._adapted_ms += seconds * _ADAPT_MS
        if is_busy:
            self._share = max(min(SHARE_MIN, self._limits.requests_per_minute), self._share // 2)
            return
        for _ in range(min(seconds, 60)):
            self._share = self._grown(self._share)

    def _grown(self, share: int) -> int:
        return min(self._limits.requests_per_minute, share + share // 4 + 1)

    def _limits_of(self, share: int) -> Limits:
        if share == self._limits.requests_per_minute:
            return self._limits
        return Limits(share, share, self._limits.cost_ceiling)

    def refuse(self, address: str, key_hash: bytes) -> None:
        """Remember that this address sent a key that is not valid."""
        if (visitor := self._visitors.get(address)) is not None:
            visitor.refused_key = key_hash

    def was_refused(self, address: str, key_hash: bytes) -> bool:
        """Whether this key is the one that was last refused from this address."""
        visitor = self._visitors.get(address)
        return visitor is not None and visitor.refused_key == key_hash
