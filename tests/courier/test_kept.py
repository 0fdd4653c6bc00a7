"""A connection is kept for the next post to the same URL, no longer than its checked address may be trusted."""

from __future__ import annotations

import asyncio

import pytest

from streams.courier import kept
from streams.courier.posts import ANSWER_BYTES_MAX, Posts
from tests.courier.receivers import OK, receiver
from tests.courier.test_posts import NAME, World, posts, until


@pytest.mark.asyncio
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_next_post_to_a_url_goes_on_the_same_connection_and_to_another_on_another(scheme: str) -> None:
    async with receiver(*([NAME] if scheme == "https" else [])) as there:
        there.keeps = True
        own, url = posts(), f"{scheme}://{NAME}:{there.port}"
        for _ in range(3):
            assert (await own.post(f"{url}/a", b"{}", {})).is_delivered
        assert there.connections == 1
        # Whoever shares a host with others shares no connection with them.
        assert (await own.post(f"{url}/b", b"{}", {})).is_delivered
        assert there.connections == 2
        await asyncio.gather(*(own.post(f"{url}/a", b"{}", {}) for _ in range(3)))
        assert there.connections == 4
        assert "connection" not in there.requests[0].headers
        await own.close()
        await until(lambda: there.ended == 4)


@pytest.mark.asyncio
async def test_what_was_not_read_to_its_end_or_is_to_be_closed_is_not_kept() -> None:
    async with receiver(NAME) as there:
        there.keeps = True
        own, url = posts(), f"https://{NAME}:{there.port}/"
        long = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (2 * ANSWER_BYTES_MAX)
        for number, answer in enumerate(
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                long + b"x" * (2 * ANSWER_BYTES_MAX),
                b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            ),
            1,
        ):
            there.answers = [answer]
            outcome = await own.post(url, b"{}", {})
            assert (outcome.status, there.connections) == (200, number)
        await own.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_receiver_that_hung_up_meanwhile_gets_another_connection(scheme: str) -> None:
    async with receiver(*([NAME] if scheme == "https" else [])) as there:
        own, url = posts(), f"{scheme}://{NAME}:{there.port}/"
        for number in range(1, 4):
            outcome = await own.post(url, b"{}", {})
            assert (outcome.is_delivered, outcome.is_void, there.connections) == (True, False, number)
            await until(lambda ended=number: there.ended == ended)  # type: ignore[misc]
        await own.close()


@pytest.mark.asyncio
async def test_one_that_hangs_up_as_a_post_comes_is_told_apart_from_a_failure_and_gets_a_connection_each() -> None:
    async with receiver(NAME) as there:
        there.keeps = True
        there.answers = [OK, b"", OK]
        own, url = posts(), f"https://{NAME}:{there.port}/"
        assert (await own.post(url, b"{}", {})).is_delivered
        void = await own.post(url, b"{}", {})
        assert (void.is_void, void.is_delivered, void.status, there.connections) == (True, False, 0, 1)
        for number in (2, 3):
            assert (await own.post(url, b"{}", {})).is_delivered
            assert there.connections == number
        there.answers = [b""]
        failed = await own.post(url, b"{}", {})
        assert (failed.is_void, failed.error.startswith("no answer in HTTP")) == (False, True)
        await own.close()


@pytest.mark.asyncio
async def test_a_name_is_looked_up_again_once_a_connection_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiver(NAME) as public, receiver(NAME, "127.0.0.1") as inside:
        public.keeps = True
        world = World(**{"93.184.216.34": public.port, "127.0.0.1": inside.port})
        asked: list[str] = []

        async def rebinding(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["93.184.216.34"] if len(asked) == 1 else ["127.0.0.1"]

        own = posts(look_up=rebinding, networks=[], network=world)
        for _ in range(2):
            assert (await own.post(f"https://{NAME}/", b"{}", {})).is_delivered
        assert (asked, public.connections) == ([NAME], 1)
        monkeypatch.setattr(kept, "AGE_SECONDS_MAX", 0.0)
        refused = await own.post(f"https://{NAME}/", b"{}", {})
        assert (refused.error[:8], asked, inside.connections) == ("not sent", [NAME, NAME], 0)
        await until(lambda: public.ended == 1)
        await own.close()


async def kept_by(own: Posts, count: int) -> None:
    async with asyncio.timeout(10):
        while len(own._kept) != count:
            await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_few_are_kept_and_none_that_nobody_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT_MAX", 3)
    async with receiver(NAME) as there:
        there.keeps = True
        own, url = posts(), f"https://{NAME}:{there.port}"
        for number in range(5):
            assert (await own.post(f"{url}/{number}", b"{}", {})).is_delivered
        await until(lambda: there.ended == 2)
        # The one that was kept last is the last to go.
        assert (await own.post(f"{url}/4", b"{}", {})).is_delivered
        assert (there.connections, len(own._kept)) == (5, 3)
        monkeypatch.setattr(kept, "IDLE_SECONDS_MAX", 0.1)
        await kept_by(own, 0)
        await until(lambda: there.ended == 5)
        assert there.requests[-1].line.startswith("POST /4 ")
        await own.close()
