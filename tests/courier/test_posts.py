"""Posts reach real receivers over TLS, and nothing that a receiver does takes more than its share of time or memory."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_network

import httpcore
import pytest

from streams.courier.network import TcpNetwork
from streams.courier.posts import BODY_BYTES_MAX, Outcome, Posts, retry_after
from tests.courier.receivers import OK, Answer, Receiver, receiver, trusting

LOOPBACK = [ip_network("127.0.0.0/8")]
NAME = "hooks.example"


async def at_home(host: str, port: int) -> list[str]:
    """Every name is this machine's."""
    return ["127.0.0.1"]


def posts(**options: object) -> Posts:
    given: dict[str, object] = {"tls": trusting(), "look_up": at_home, "networks": LOOPBACK, **options}
    return Posts(**given)  # type: ignore[arg-type]


async def post(there: Receiver, body: bytes = b"{}", scheme: str = "https", **options: object) -> Outcome:
    own = posts(**options)
    try:
        return await own.post(f"{scheme}://{NAME}:{there.port}/in?a=b", body, {"webhook-id": "ntc-1"})
    finally:
        await own.close()


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not reached():
            await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_a_post_goes_by_name_to_the_address_that_was_checked_and_by_no_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with receiver(NAME) as there:
        outcome = await post(there, b'{"a":1}')
        assert (outcome.status, outcome.is_delivered, outcome.answer, outcome.error) == (200, True, b"ok", "")
        (got,) = there.requests
        assert (got.line, got.body, got.name) == ("POST /in?a=b HTTP/1.1", b'{"a":1}', NAME)
        assert got.headers["host"] == f"{NAME}:{there.port}"
        assert got.headers["webhook-id"] == "ntc-1"
        assert "accept-encoding" not in got.headers and "cookie" not in got.headers
    async with receiver() as plain:
        assert (await post(plain, scheme="http")).is_delivered, "http is for networks that are named"
        refused = await post(plain, scheme="http", networks=[])
        assert (refused.status, refused.error) == (
            0,
            "not sent: the URL's host has no public address, or not only such",
        )


@pytest.mark.asyncio
async def test_answers_that_are_no_2xx_are_failures_and_no_redirect_is_followed() -> None:
    async with receiver(NAME) as there, receiver() as inside:
        for line in (
            b"204 No Content",
            b"299 Own",
            b"301 Moved",
            b"307 Temporary",
            b"304 Same",
            b"410 Gone",
            b"500 Oh",
        ):
            away = b"location: http://127.0.0.1:%d/" % inside.port
            there.answers = [b"HTTP/1.1 " + line + b"\r\n" + away + b"\r\ncontent-length: 0\r\n\r\n"]
            outcome = await post(there)
            assert (outcome.status, outcome.is_delivered) == (int(line[:3]), line[:1] == b"2"), outcome
        assert inside.connections == 0
        assert there.connections == 7


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await writer.drain()


def dripping(first: bytes) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.02)

    return drip


async def silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


@pytest.mark.asyncio
async def test_an_answer_is_read_to_4096_bytes_and_an_attempt_takes_its_time_and_no_longer() -> None:
    async with receiver(NAME) as there:
        there.answers = [endless]
        outcome = await post(there, seconds_max=5.0)
        assert (outcome.status, outcome.answer, outcome.is_delivered) == (200, b"x" * 4096, True)
        # Whoever answers for ever is hung up on.
        await until(lambda: there.ended == 1)
        slow: tuple[Answer, ...] = (
            silent,
            dripping(b""),
            dripping(b"HTTP/1.1 200 OK\r\nx-"),
            dripping(b"HTTP/1.1 200 OK\r\n\r\n"),
        )
        for answer in slow:
            there.answers = [answer]
            began_at = time.monotonic()
            outcome = await post(there, seconds_max=0.3)
            assert (outcome.status, outcome.error) == (0, "no answer within 0.3 seconds")
            assert outcome.ms >= 290 and time.monotonic() - began_at < 2.0
        there.answers = [b"HTTP/1.1 200 OK\r\n" + b"a: " + b"b" * 200_000 + b"\r\n\r\n"]
        assert (await post(there)).error.startswith("no answer in HTTP")

    async def never(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    assert (await post(there, look_up=never, seconds_max=0.2)).error == "no answer within 0.2 seconds"


@pytest.mark.asyncio
async def test_what_keeps_a_post_from_its_receiver_is_told_in_words_that_help() -> None:
    async with receiver("other.example") as other, receiver(NAME) as there, receiver() as plain:
        assert "the certificate is not good" in (await post(other)).error
        assert other.requests == []
        untrusting = await post(there, tls=httpcore.default_ssl_context())
        assert "the certificate is not good" in untrusting.error
        assert (await post(plain)).error.startswith("TLS failed")
        there.answers = [b"SSH-2.0-OpenSSH_9.6\r\n"]
        assert (await post(there)).error.startswith("no answer in HTTP")
        there.answers = [b""]
        assert (await post(there)).error.startswith("no answer in HTTP")
        before = there.connections
        assert (await post(there, b"x" * BODY_BYTES_MAX)).error == "not sent: a body has less than 20,000 bytes"
        assert there.connections == before
    assert (await post(there)).error.startswith("no connection")


@pytest.mark.asyncio
async def test_a_post_that_is_cancelled_ends_with_its_connection() -> None:
    async with receiver(NAME, answer=silent) as there:
        attempt = asyncio.create_task(post(there))
        while not there.requests:
            await asyncio.sleep(0.01)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt


class World(httpcore.AsyncNetworkBackend):
    """A network in which each of these addresses is a port of this machine: tests reach no other. `reached` are the
    addresses that were connected to, in order."""

    def __init__(self, **ports: int) -> None:
        self.ports: dict[str, int] = ports
        self.reached: list[str] = []
        self._system = TcpNetwork()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.reached.append(host)
        if host not in self.ports:
            raise httpcore.ConnectError(host)
        return await self._system.connect_tcp("127.0.0.1", self.ports[host])


@pytest.mark.asyncio
async def test_a_name_that_is_public_when_it_is_checked_and_private_after_leads_nowhere_inside() -> None:
    async with receiver(NAME) as public, receiver(NAME, "127.0.0.1") as inside:
        world = World(**{"93.184.216.34": public.port, "127.0.0.1": inside.port})
        asked: list[str] = []

        async def rebinding(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["93.184.216.34"] if len(asked) == 1 else ["127.0.0.1"]

        own = posts(look_up=rebinding, networks=[], network=world)
        first = await own.post(f"https://{NAME}/", b"{}", {})
        assert (first.is_delivered, asked) == (True, [NAME]), "it is looked up once"
        assert (public.requests[0].name, public.requests[0].headers["host"]) == (NAME, NAME)
        await until(lambda: public.ended == 1)
        second = await own.post(f"https://{NAME}/", b"{}", {})
        assert second.error.startswith("not sent: ")
        assert world.reached == ["93.184.216.34"]
        assert inside.connections == 0
        await own.close()

        async def several(host: str, port: int) -> list[str]:
            return ["8.8.4.4", "2606:4700::1", "93.184.216.34", "8.8.8.8"]

        world.reached.clear()
        own = posts(look_up=several, networks=[], network=world)
        assert (await own.post(f"https://{NAME}/", b"{}", {})).is_delivered, "one that does not answer is passed over"
        assert world.reached == ["8.8.4.4", "2606:4700::1", "93.184.216.34"]
        await own.close()


@pytest.mark.asyncio
async def test_a_forward_proxy_gets_the_name_and_tls_goes_through_it_to_the_receiver() -> None:
    asked: list[tuple[str, str]] = []

    async with receiver(NAME) as there:

        async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            asked.append((head.partition("\r\n")[0], head.lower()))
            if "refused.example" in head:
                writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
                writer.close()
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", there.port)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

            async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
                while part := await source.read(65536):
                    to.write(part)
                to.close()

            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer), return_exceptions=True)

        server = await asyncio.start_server(proxy, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            own = posts(proxy=f"http://user:p%40ss@127.0.0.1:{port}", networks=[])
            outcome = await own.post(f"https://{NAME}/in", b"{}", {})
            assert (outcome.is_delivered, outcome.answer, outcome.error) == (True, b"ok", "")
            assert there.requests[0].name == NAME
            (line, head) = asked[0]
            assert line == f"CONNECT {NAME}:443 HTTP/1.1"
            assert base64.b64encode(b"user:p@ss").decode().lower() in head
            assert (await own.post("https://refused.example/", b"{}", {})).error.startswith("no answer in HTTP: 403")
            for url in ("http://hooks.example/", "https://127.0.0.1/", "https://localhost/"):
                assert (await own.post(url, b"{}", {})).error.startswith("not sent: ")
            assert len(asked) == 2
            await own.close()


@pytest.mark.asyncio
async def test_only_a_429_or_503_says_when_to_come_again() -> None:
    async with receiver(NAME) as there:
        for status, expected in ((429, 7.0), (503, 7.0), (500, None), (200, None)):
            there.answers = [b"HTTP/1.1 %d X\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n" % status]
            assert (await post(there)).retry_after_seconds == expected
        there.answers = [OK]
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True).encode()
    assert 50 < (retry_after(in_a_minute) or 0) <= 60
    assert retry_after(b"Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after(b"9" * 4000) == retry_after(b"Fri, 31 Dec 9999 23:59:59 GMT") == 86_400
    for odd in (b"", None, b"-1", b"1.5", b"soon", b"\xb2", b"1e9", b"Fri, 99 Foo 2015 07:28:00 GMT"):
        assert retry_after(odd) is None
