"""The producer library's HTTP way, against the whole stack."""

import asyncio

import pytest

from api.stack import Stack
from schemas.problems import Rejection
from streams.producer import HttpProducer, ProducerError, usage_event
from tests.client import Operator, eventually


def test_each_event_is_acknowledged_or_refused_by_itself(stack: Stack, operator: Operator) -> None:
    project = operator.project("hobby")
    key = operator.key(project)["key"]

    async def send() -> None:
        async with HttpProducer(stack.url, key, events_per_pack=40) as producer:
            good = [await producer.send(usage_event(project, "image", id=f"{n}", source="/h")) for n in range(100)]
            bad = await producer.send(usage_event(project, "hologram", id="bad", source="/h"))
            await asyncio.gather(*good)
            with pytest.raises(Rejection) as refused:
                await bad
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
            with pytest.raises(ProducerError, match="not acknowledged"):
                await sent

    asyncio.run(send())


def test_large_batches_fit_through(stack: Stack, operator: Operator) -> None:
    """Each event near its own limit: the envelopes must still be taken by the broker, and the facts as well."""
    project = operator.project("scale")
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
