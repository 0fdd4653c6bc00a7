"""Posts to strangers' URLs: to checked addresses only, with a limit on all that a stranger may do to the asker.

No redirect is followed, no cookie kept, nothing unpacked, no proxy of the environment read. The next post to the
same URL may go on the same connection. See docs/decisions/0064 and 0071.
"""

from __future__ import annotations

import asyncio
import email.utils
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import httpcore
import httpx

from streams.courier.addresses import ForbiddenError, Network, Place, Resolve, Resolver
from streams.courier.exchanges import HttpConnection
from streams.courier.kept import Connection, KeptConnections
from streams.courier.network import TcpNetwork

SECONDS_MAX = 15.0
ANSWER_BYTES_MAX = 4096
BODY_BYTES_MAX = 20_000
RETRY_AFTER_SECONDS_MAX = 86_400
# Of a host with many addresses so many are tried, and none but the last for longer than this.
ADDRESSES_TRIED_MAX = 3
CONNECT_SECONDS_MAX = 4.0
_WAIT_STATUSES = (429, 503)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of an attempt. `status` is the answer's, 0 where none came, and `error` says why then. `answer` has
    the first 4,096 bytes. `retry_after_seconds` is what a 429 or 503 asked for. `is_delivered` says that the endpoint
    took the notice: any 2xx. One that is `is_void` was no attempt: the other side had hung up on a kept connection, and
    it is to be made again."""

    status: int
    ms: int
    answer: bytes = b""
    retry_after_seconds: float | None = None
    error: str = ""
    is_delivered: bool = False
    is_void: bool = False


class Posts:
    """Posts go to public addresses by https, to `networks` by http too, and through a `proxy` where there is one: then
    the proxy looks names up, and has to check their addresses. TLS trusts who the system's or `SSL_CERT_FILE` does,
    unless `tls` says otherwise."""

    def __init__(
        self,
        networks: Sequence[Network] = (),
        proxy: str | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        look_up: Resolve | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
        seconds_max: float = SECONDS_MAX,
    ) -> None:
        self._network = network or TcpNetwork()
        self._resolver = Resolver(networks, look_up)
        self._kept = KeptConnections()
        self._proxy = None if proxy is None else httpx.URL(proxy)
        self._tls = tls or httpx.create_ssl_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._seconds_max = seconds_max

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """Post a body, and give what came of it. Raises nothing but CancelledError."""
        began_at = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds_max):
                return await self._post(url, body, headers, began_at)
        except TimeoutError:
            error = f"no answer within {self._seconds_max:g} seconds"
        except _HungUpError:
            return Outcome(status=0, ms=_since(began_at), error="the connection was closed meanwhile", is_void=True)
        except ForbiddenError as forbidden:
            error = f"not sent: {forbidden}"
        except (OSError, httpcore.NetworkError, httpcore.TimeoutException) as failed:
            error = _in_words(failed)
        except (httpcore.ProtocolError, httpcore.ProxyError, httpcore.UnsupportedProtocol) as failed:
            error = f"no answer in HTTP: {_short(failed)}"
        except Exception as failed:
            # Whatever a stranger's bytes bring about in a library is a failed attempt, and no more.
            error = f"the attempt failed: {type(failed).__name__}"
        return Outcome(status=0, ms=_since(began_at), error=error)

    async def close(self) -> None:
        """Give back what posting takes."""
        self._resolver.close()
        await self._kept.close()

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str], began_at: float) -> Outcome:
        if len(body) >= BODY_BYTES_MAX:
            raise ForbiddenError(f"a body has less than {BODY_BYTES_MAX:,} bytes")
        if self._proxy is not None:
            return await self._post_by_proxy(self._proxy, url, body, headers, began_at)
        connection = self._kept.take(url)
        if connection is None:
            connection = await self._connect(url)
        place = connection.place
        try:
            head, answer = await connection.http.post(
                place.path, _headers(place, body, headers), body, ANSWER_BYTES_MAX
            )
        except (httpcore.NetworkError, httpcore.RemoteProtocolError) as failed:
            await connection.http.close()
            if connection.is_used:
                self._kept.shun(url)
                raise _HungUpError from failed
            raise
        except BaseException:
            await connection.http.close()
            raise
        self._kept.keep(connection)
        return _outcome(head.status_code, head.headers, answer, began_at)

    async def _connect(self, url: str) -> Connection:
        """Connect to a URL's receiver, at an address that was checked."""
        place = await self._resolver.place_of(url)
        made_at = time.monotonic()
        *others, last = place.addresses[:ADDRESSES_TRIED_MAX]
        for address in others:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                stream = await self._network.connect_tcp(address, place.port, CONNECT_SECONDS_MAX)
                break
        else:
            stream = await self._network.connect_tcp(last, place.port)
        if place.scheme == "https":
            stream = await stream.start_tls(self._tls, place.host)
        return Connection(url, place, HttpConnection(stream), made_at)

    async def _post_by_proxy(
        self, given: httpx.URL, url: str, body: bytes, headers: Mapping[str, str], began_at: float
    ) -> Outcome:
        place = await self._resolver.place_of(url, is_proxied=True)
        proxy = httpcore.URL(scheme=given.scheme, host=given.raw_host, port=given.port, target="/")
        user = (given.username, given.password) if given.userinfo else None
        http = httpcore.AsyncHTTPProxy(proxy, proxy_auth=user, ssl_context=self._tls, max_connections=1)
        url_of_place = httpcore.URL(scheme=place.scheme, host=place.host, port=place.port, target=place.path)
        own = {"connection": "close", **headers}
        request = httpcore.Request("POST", url_of_place, headers=_headers(place, body, own), content=body)
        answer = b""
        try:
            response = await http.handle_async_request(request)
            async for part in response.aiter_stream():
                answer += part
                if len(answer) >= ANSWER_BYTES_MAX:
                    break
            return _outcome(response.status, response.headers, answer[:ANSWER_BYTES_MAX], began_at)
        finally:
            await http.aclose()


class _HungUpError(Exception):
    """The other side had hung up on a kept connection, or did so without an answer."""


def retry_after(value: bytes | None) -> float | None:
    """The seconds that a Retry-After header asks to wait, at most a day; None where it can't be read."""
    text = (value or b"").decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:9]), RETRY_AFTER_SECONDS_MAX))
    try:
        at = email.utils.parsedate_to_datetime(text)
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), float(RETRY_AFTER_SECONDS_MAX))


def _outcome(status: int, headers: Iterable[tuple[bytes, bytes]], answer: bytes, began_at: float) -> Outcome:
    given = {name.lower(): value for name, value in headers} if status in _WAIT_STATUSES else {}
    return Outcome(
        status=status,
        ms=_since(began_at),
        answer=answer,
        retry_after_seconds=retry_after(given.get(b"retry-after")) if given else None,
        is_delivered=200 <= status < 300,
    )


def _headers(place: Place, body: bytes, headers: Mapping[str, str]) -> list[tuple[str, str]]:
    is_usual = place.port == {"https": 443, "http": 80}[place.scheme]
    host = f"[{place.host}]" if ":" in place.host else place.host
    own = {"host": host if is_usual else f"{host}:{place.port}", "content-length": str(len(body))}
    return [*own.items(), *headers.items()]


def _in_words(failed: Exception) -> str:
    """Why no connection came about, as its owner can use it."""
    cause: BaseException | None = failed
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not good: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return "TLS failed: the other side speaks none, or none that is safe"
        cause = cause.__cause__ or cause.__context__
    if isinstance(failed, httpcore.ConnectError | httpcore.ConnectTimeout):
        return "no connection: nobody answers at the URL's host and port"
    return "the connection broke before an answer came"


def _short(failed: Exception) -> str:
    return "".join(each if " " <= each <= "~" else "?" for each in str(failed))[:200]


def _since(began_at: float) -> int:
    return round((time.monotonic() - began_at) * 1000)
