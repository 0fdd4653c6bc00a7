"""Spenders: many callers spend one balance at once, while its worker is killed. No credit over it may be admitted, and
all of it must be spent.

Each spender asks for one credit at a time until it is told that there is none. A request that had no answer is
repeated under the same idempotency key. The charges are then read from ClickHouse and compared with the answers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from api.stack import Stack
from schemas.accounts import Limits
from schemas.commands import CreateProject, SetLimits
from schemas.prices import MICROCREDITS_PER_CREDIT
from streams.clickhouse.client import ClickHouse
from streams.client.admissions import Decision, MeterlineAway
from streams.client.amounts import microcredits_of
from streams.client.kafka_admissions import KafkaAdmissions
from streams.core.limits import CEILING_MAX, REQUESTS_MAX
from streams.errors import OperatorError
from streams.kafka.command_client import CommandClient
from streams.kafka.publisher import Publisher
from streams.settings import Settings

OPERATION, COST = "chat.message", MICROCREDITS_PER_CREDIT
SOURCE = "/spenders"
KILLS = 2
# Long enough for requests that are under way when a worker is killed, and short enough that they are sent again soon.
ATTEMPT_SECONDS = 3.0
STALLED_SECONDS = 60.0
# A run has passed if all of these figures are 0.
ZERO_FIGURES = (
    "overspent_microcredits",
    "unspendable_microcredits",
    "refused_with_credits",
    "admitted_but_not_charged",
    "refused_but_charged",
    "charged_twice",
    "charged_unasked",
    "ledger_and_balance_differ_microcredits",
    "unexpected_answers",
    "replies_expired",
)

_CHARGES = """
SELECT event_id, count(), -sum(amount) FROM facts WHERE project = {project:String} AND kind = 'charge' GROUP BY event_id
"""
_LEDGER = """
SELECT sum(amount), countIf(partition = {partition:UInt32} AND offset = {offset:UInt64}) FROM facts
WHERE project = {project:String}
"""


@dataclass(slots=True)
class Answers:
    """The answers that the spenders were given, by event id. `admitted` (200) and `refused` (402) have the credits left
    after it. Requests in `expired` were decided before, and their replies were not kept: each was admitted or
    refused, and nobody can say which."""

    admitted: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    expired: set[str] = field(default_factory=set)
    retries: int = 0
    unexpected: Counter[str] = field(default_factory=Counter)
    kills: int = 0

    @property
    def decisions(self) -> int:
        """The number of different events that were decided."""
        return len(self.admitted) + len(self.refused) + len(self.expired)


def spend(stack: Stack, settings: Settings, spenders: int, credits: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run the spenders on a stack with one worker; `settings` reach its ClickHouse. Raises OperatorError where it
    stalls."""
    return asyncio.run(_spend(stack, settings, spenders, credits, tell))


async def _spend(
    stack: Stack, settings: Settings, spenders: int, credits: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    project = f"spenders-{spenders}-{credits}"
    await _open(settings, project, credits)
    told = Answers()
    async with KafkaAdmissions(settings, timeout_seconds=ATTEMPT_SECONDS) as admissions:
        began_at = time.monotonic()
        await _spend_all(stack, admissions, project, spenders, credits, told, tell)
        seconds = time.monotonic() - began_at
        left_over = min(told.refused.values())
        by_the_last_one, last = await _spend_the_rest(admissions, project, told)
    tell("waiting for the history")
    charges, ledger = await asyncio.to_thread(_history, settings, project, last)
    return {
        "spenders": spenders,
        "credits": credits,
        "kills": told.kills,
        "seconds": round(seconds, 2),
        "decisions_per_second": round(told.decisions / seconds, 1),
        "left_by_the_spenders_microcredits": left_over,
        "spent_by_the_last_one_microcredits": by_the_last_one,
        **compare(told, charges, credits * COST, ledger, microcredits_of(last.available, "available")),
    }


def compare(
    told: Answers, charges: dict[str, tuple[int, int]], granted: int, ledger: int, available: int
) -> dict[str, Any]:
    """Compare the spenders' answers with the history. `charges` has (number, microcredits) for each event, `ledger` is
    the sum of all entries, `available` is what the owner says is left at the end."""
    charged = sum(amount for _, amount in charges.values())
    asked = told.admitted.keys() | told.refused.keys() | told.expired
    return {
        "overspent_microcredits": max(0, charged - granted),
        "unspendable_microcredits": max(0, granted - charged),
        "refused_with_credits": sum(left >= COST for left in told.refused.values()),
        "admitted": len(told.admitted),
        "refused": len(told.refused),
        "retries": told.retries,
        "replies_expired": len(told.expired),
        "admitted_but_not_charged": len(told.admitted.keys() - charges.keys()),
        "refused_but_charged": len(told.refused.keys() & charges.keys()),
        "charged_twice": sum(count > 1 or amount != COST for count, amount in charges.values()),
        "charged_unasked": len(charges.keys() - asked),
        "charges": len(charges),
        "ledger_and_balance_differ_microcredits": abs(ledger - available),
        "unexpected_answers": told.unexpected.total(),
        "unexpected_codes": dict(told.unexpected),
    }


async def _open(settings: Settings, project: str, credits: int) -> None:
    publisher = Publisher(settings)
    await publisher.start()
    commands = CommandClient(settings, publisher)
    await commands.start()
    try:
        opening = CreateProject(
            project=project,
            name="",
            plan="enterprise",
            contract_allowance=credits * COST,
            **commands.addressing(),
        )
        limits = Limits(REQUESTS_MAX, 2 * REQUESTS_MAX, CEILING_MAX)
        raised = SetLimits(project=project, limits=limits, is_shadow=False, reason="spenders", **commands.addressing())
        for command in (opening, raised):
            reply, _ = await commands.decide(command)
            if reply.code:
                raise OperatorError(f"{project}: {reply.code} {reply.detail}")
    finally:
        await commands.stop()
        await publisher.stop()


async def _spend_all(
    stack: Stack,
    admissions: KafkaAdmissions,
    project: str,
    spenders: int,
    credits: int,
    told: Answers,
    tell: Callable[[str], None],
) -> None:
    """Run all spenders at once, each until it is refused; the worker is killed while the credits go."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_spender(admissions, project, str(number), told)) for number in range(spenders)]
        killed: set[int] = set()
        last, moved_at = -1, time.monotonic()
        while not all(task.done() for task in running):
            await asyncio.sleep(0.02)
            stack.check()
            decided = len(told.admitted) + len(told.expired)
            if decided != last:
                last, moved_at = decided, time.monotonic()
            elif time.monotonic() - moved_at > STALLED_SECONDS:
                raise OperatorError(
                    f"The spenders have had no decision for {STALLED_SECONDS:.0f} s: {decided:,} so far"
                )
            # The kills come when a fourth and a half of the credits are spent: all spenders are still busy then.
            pid = stack.pids().get("worker-1")
            if told.kills < KILLS and decided >= (told.kills + 1) * credits // 4 and pid and pid not in killed:
                tell(f"killing the worker after {decided:,} of {credits:,} credits")
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
                told.kills += 1
    if told.kills < KILLS:
        raise OperatorError(f"The credits were spent before the worker was killed {KILLS} times")


async def _spender(admissions: KafkaAdmissions, project: str, name: str, told: Answers) -> None:
    number = 0
    while True:
        number += 1
        decision = await _ask(admissions, project, f"{name}-{number}", told)
        if decision.status == 402:
            return


async def _ask(admissions: KafkaAdmissions, project: str, id: str, told: Answers) -> Decision:
    """Ask for one credit until there is an answer, and note the answer."""
    while True:
        try:
            decision = await admissions.admit(project, OPERATION, id=id, source=SOURCE, idempotency_key=id)
        except MeterlineAway:
            told.retries += 1
            continue
        if decision.allowed and not decision.already_decided:
            told.admitted[id] = microcredits_of(decision.available, "available")
        elif decision.code == "out_of_credits":
            told.refused[id] = microcredits_of(decision.available, "available")
        elif decision.code == "idempotency_reply_expired":
            told.expired.add(id)
        else:
            told.unexpected[decision.code or "already_decided"] += 1
        return decision


async def _spend_the_rest(admissions: KafkaAdmissions, project: str, told: Answers) -> tuple[int, Decision]:
    """Spend what is left with a single spender, once all others have ended; returns the microcredits it spent, and its
    last refusal."""
    spent = number = 0
    while True:
        number += 1
        decision = await _ask(admissions, project, f"last-{number}", told)
        if decision.status == 402:
            return spent, decision
        spent += microcredits_of(decision.credits, "credits")


def _history(settings: Settings, project: str, last: Decision) -> tuple[dict[str, tuple[int, int]], int]:
    """Wait until ClickHouse has the last decision, and read each event's charges (number, microcredits) and the sum of
    all entries."""
    partition, offset, _ = last.entry_id.split("-")
    until = {"project": project, "partition": int(partition), "offset": int(offset)}
    clickhouse = ClickHouse(settings)
    try:
        deadline = time.monotonic() + STALLED_SECONDS
        while True:
            ledger, is_there = clickhouse.query(_LEDGER, until)[0]
            if int(is_there):
                break
            if time.monotonic() > deadline:
                raise OperatorError(f"ClickHouse has no fact of {last.entry_id} after {STALLED_SECONDS:.0f} s")
            time.sleep(0.1)
        rows = clickhouse.query(_CHARGES, {"project": project})
    finally:
        clickhouse.close()
    return {str(id): (int(count), int(amount)) for id, count, amount in rows}, int(ledger)
