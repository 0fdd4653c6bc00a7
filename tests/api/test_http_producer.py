"""The producer library sends events over HTTP to the whole stack."""

import asyncio
import re
import time
from itertools import pairwise

import pytest

from api.stack import Stack
from streams.client.http_producer import HttpProducer
from streams.client.producer import EventRejection, ProducerError, usage_event
from tests.calls import Operator, eventually


def test_each_event_is_acknowledged_or_refused_by_itself(stack: Stack, operator: Operator) -> None:
    project = operator.project("hobby")
    operator.lift_limits(project)
    key = operator.key(project)["key"]

    async def send() -> None:
        async with HttpProducer(stack.url, key, events_per_pack=40) as producer:
            good = [await producer.send(usage_event(project, "image", id=f"{n}", source="/h")) for n in range(100)]
            bad = await producer.send(usage_event(project, "hologram", id="bad", source="/h"))
            await asyncio.gather(*good)
            with pytest.raises(
                EventRejection, match=r"unknown_operation: .* \(event 'bad' of source '/h'\)$"
            ) as refused:
                await bad
            assert (refused.value.source, refused.value.id) == ("/h", "bad")
            assert (refused.value.code, refused.value.field) == ("unknown_operation", "data.operation")
        assert (producer.acknowledged, dict(producer.errors)) == (100, {"unknown_operation": 1})

    asyncio.run(send())
    client = operator.client(key)
    eventually(lambda: client.get("/v1/balance").json()["available"] == "1800")


def test_a_key_that_is_not_known_fails_every_event(stack: Stack) -> None:
    async def send() -> None:
        async with HttpProducer(stack.url, "mtl_live_ghost.secret") as producer:
            sent = await producer.send(usage_event("ghost", "image", id="1", source="/h"))
            with pytest.raises(ProducerError, match="unauthenticated"):
                await sent

    asyncio.run(send())


def test_an_api_that_is_away_is_tried_again_and_then_named(operator: Operator) -> None:
    async def send() -> None:
        async with HttpProducer("http://127.0.0.1:1", "k", attempts_max=3, retry_seconds=0.01) as producer:
            sent = await producer.send(usage_event("p", "image", id="1", source="/h"))
            with pytest.raises(ProducerError, match=r"not acknowledged.* \(event '1' of source '/h'\)$") as failed:
                await sent
            assert (failed.value.source, failed.value.id) == ("/h", "1")

    asyncio.run(send())


class Answers:
    """An HTTP server that gives these answers, one after the other, and notes the bodies that it was sent, and when."""

    def __init__(self, *answers: tuple[int, dict[str, str]]) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[float, bytes]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(re.search(rb"content-length: (\d+)", head.lower())[1])
                self.sent.append((time.monotonic(), await reader.readexactly(length)))
                status, headers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                lines = [f"HTTP/1.1 {status} -", "content-length: 2", *(f"{k}: {v}" for k, v in headers.items())]
                writer.write("\r\n".join(lines).encode() + b"\r\n\r\n{}")
        except asyncio.IncompleteReadError:
            writer.close()

    async def deliver_to(self, **producer: float) -> HttpProducer:
        """Send one event to this server with a producer, and return the closed producer."""
        server = await asyncio.start_server(self, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, HttpProducer(url, "k", **producer) as sending:
            await sending.send(usage_event("p", "image", id="1", source="/h"))
        return sending


def test_over_the_limit_it_waits_as_long_as_it_is_told_and_loses_nothing() -> None:
    answers = Answers((429, {"retry-after": "1"}), (503, {"retry-after": "1"}), (429, {}), (429, {}), (202, {}))
    producer = asyncio.run(answers.deliver_to(attempts_max=2, retry_seconds=0.01))
    assert (producer.acknowledged, dict(producer.errors)) == (1, {})
    times, bodies = zip(*answers.sent, strict=True)
    assert len(bodies) == 5
    assert len(set(bodies)) == 1
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert [pause >= 1 for pause in pauses] == [True, True, False, False]


def test_over_the_limit_for_too_long_it_says_so_instead_of_dropping_events() -> None:
    answers = Answers((429, {"retry-after": "600"}))
    producer = asyncio.run(answers.deliver_to(give_up_seconds=5))
    assert (producer.acknowledged, dict(producer.errors)) == (0, {"not_acknowledged": 1})
    assert len(answers.sent) == 1


def test_large_batches_fit_through(stack: Stack, operator: Operator) -> None:
    """The events are each as large as they may be: the broker must still take the envelopes, and the facts as well."""
    project = operator.project("scale")
    operator.lift_limits(project)
    key = operator.key(project)["key"]
    metadata = {f"key-{n}": "x" * 500 for n in range(32)}

    async def send() -> None:
        async with HttpProducer(stack.url, key, events_per_pack=200) as producer:
            for number in range(400):
                await producer.send(usage_event(project, "image", id=f"{number}", source="/h", metadata=metadata))
        assert producer.acknowledged == 400

    asyncio.run(send())
    client = operator.client(key)
    eventually(lambda: client.get("/v1/balance").json()["available"] == str(100_000 - 400 * 32))
    eventually(lambda: [row["uses"] for row in client.get("/v1/usage").json()["rows"]] == [400])
