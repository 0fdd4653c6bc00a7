"""No record is passed over by recovery's last step. Where one is missing all the same, nothing after it is decided."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faust.tables.recovery import Recovery as FaustRecovery

from streams.kafka.topics import topics_of
from streams.settings import Settings
from streams.worker.agents import IntakeGapError, Owner
from streams.worker.app import create_app
from streams.worker.recovery import Recovery, TableManager


def test_the_flow_is_stopped_before_the_last_step_of_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    async def faults_own(_recovery: FaustRecovery, generation_id: int) -> None:
        done.append(f"Faust's own, generation {generation_id}")

    monkeypatch.setattr(FaustRecovery, "on_recovery_completed", faults_own)
    recovery = Recovery.__new__(Recovery)
    recovery.app = SimpleNamespace(
        consumer=SimpleNamespace(stop_flow=lambda: done.append("consumer stopped")),
        flow_control=SimpleNamespace(suspend=lambda: done.append("streams stopped")),
    )
    asyncio.run(recovery.on_recovery_completed(7))
    assert done == ["consumer stopped", "streams stopped", "Faust's own, generation 7"]


def test_workers_recover_that_way() -> None:
    app = create_app(Settings(kafka_url="127.0.0.1:9092"))
    assert isinstance(app.tables, TableManager)
    assert isinstance(app.tables.recovery, Recovery)


def events(*offsets: int, generation: int = 1) -> list[Any]:
    return [
        SimpleNamespace(
            message=SimpleNamespace(partition=0, offset=offset, generation_id=generation, timestamp=0.0, value=b"")
        )
        for offset in offsets
    ]


def owner(committed: int | None = None, again: int | None = None) -> Any:
    settings = Settings(kafka_url="127.0.0.1:9092")
    nothing: Any = None
    # The last entry is the committed offset at the first assignment, the one before it that at all later ones.
    places = [committed if again is None else again, committed]

    def committed_now(_partition: int) -> int | None:
        return places.pop() if len(places) > 1 else places[0]

    made = Owner(
        settings,
        topics_of(settings),
        nothing,
        nothing,
        nothing,
        lambda _partition: places.pop() if len(places) > 1 else places[0],
    )

    class DecidedError(Exception):
        pass

    def decide(*_arguments: object) -> None:
        raise DecidedError

    made.decider.decide = decide  # type: ignore[method-assign, assignment]
    return made, DecidedError


@pytest.mark.parametrize("batches", [[(0, 2)], [(0, 1), (3,)], [(1,)]])
def test_an_owner_decides_nothing_after_a_gap(batches: list[tuple[int, ...]]) -> None:
    owning, decided = owner()
    for offsets in batches[:-1]:
        with pytest.raises(decided):
            asyncio.run(owning.apply(events(*offsets)))
    with pytest.raises(IntakeGapError, match="were not delivered"):
        asyncio.run(owning.apply(events(*batches[-1])))


def test_an_assignment_begins_where_it_was_committed() -> None:
    owning, decided = owner(committed=3)
    with pytest.raises(IntakeGapError, match="3 to 3 were not delivered"):
        asyncio.run(owning.apply(events(4, 5)))
    with pytest.raises(decided):
        asyncio.run(owning.apply(events(2, 3, 4)))


def test_a_redelivery_or_another_assignment_is_no_gap() -> None:
    owning, decided = owner(committed=5, again=20)
    for batch in (events(5, 6, 7), events(6, 7, 8), events(20, 21, generation=2)):
        with pytest.raises(decided):
            asyncio.run(owning.apply(batch))
