"""A world is a whole Meterline in one process and one thread: simulated Kafka, disks, clocks and ClickHouse under the
real agents.

These parts are real: `streams.worker` (`work`, `Accept.apply`, `Owner.apply`), the core, the codecs, the tables' stores
and their recovery, the lease, the historian. These are simulated: the broker, the consumer group, RocksDB's files,
ClickHouse, time, clients, and everything that goes wrong. One seed decides the order of all of it: each step lands one
record of one send, or acknowledges one send, or delivers some records, or commits, or recovers a little, or does harm.
So a process may die between any two writes, and things that run at the same time run in any order.

Every world has duplicates, retries, reordering between topics, crashes, lost disks, partitions that move, in the middle
of a batch too, and come back to a disk that kept its state, workers that are paused or cut off from the coordinator
past their lease, compaction and retention, a broker's clock that steps back, months that end, and a ClickHouse that
fails before or after it took a block.

Hazards are harm that is off unless a test asks for it, since Meterline does not withstand all of it: `late-writes` (a
paused worker's sends land after its successor's), `brief-replies` (they are kept for some seconds), `long-clock` (more
than the dedup window passes).

One thing no world has: workers that are away for so long that Kafka drops kept replies which records that wait would
need. Retention leaves them half of the time that replies are kept.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from schemas.commands import CountRefused, CountRequest
from schemas.replies import KEPT_FOR, KeptFor, Reply
from schemas.times import DAY_MS
from streams.clickhouse import historian
from streams.clickhouse.historian import dead_letter_sink, journal_sink
from streams.kafka import codecs, envelopes, pace
from streams.kafka.codecs import decode_account
from streams.kafka.topics import topics_of
from streams.settings import Settings
from streams.state import rocks
from streams.worker import agents, batches, decider
from tests.simulation.clients import Clients
from tests.simulation.disk import Disk, MemoryFile, remove_tree
from tests.simulation.history import AsyncioInHistory, Consumer, HistorianProcess, Tables
from tests.simulation.kafka import Kafka, Record
from tests.simulation.loop import Loop
from tests.simulation.workers import Died, Group, Host, Send, Worker, is_lease_lost

LATE_WRITES = "late-writes"
BRIEF_REPLIES = "brief-replies"
LONG_CLOCK = "long-clock"
HAZARDS = (LATE_WRITES, BRIEF_REPLIES, LONG_CLOCK)

# A world starts some weeks before a month's end, so that renewals and the historian's months come up.
START_MS = 1_771_200_000_000
# A world comes to rest in far fewer steps than this, whatever happens.
STEPS_MAX = 20_000


class World:
    """A world. `run` lets everything happen and then come to rest; all that was written is in `kafka` and `history`."""

    session_seconds = 3.0

    def __init__(
        self, seed: int, hazards: frozenset[str] = frozenset(), trace: Callable[[str], None] | None = None
    ) -> None:
        self.seed = seed
        self.hazards = hazards
        self.trace = trace
        rng = self.rng = random.Random(seed)
        self.now_ms = START_MS + rng.randrange(DAY_MS)
        self.mono = 0.0
        self.steps = 0
        self.harmful = True
        self.partitions = rng.randint(1, 3)
        self.dedup_days = 32
        self.days_max = 80 if LONG_CLOCK in hazards else 30
        # The clock steps back by 3 seconds at most, which is less than retention leaves them.
        brief_ms = KeptFor(rng.choice([7_000, 10_000]), 7_000)
        self.kept_for = brief_ms if BRIEF_REPLIES in hazards else KEPT_FOR
        self.batch_records_max = rng.choice([1, 4, 16, 64])
        self.record_items_max = rng.choice([1, 2, 5, 1000])
        self.accounts_cached_max = rng.choice([0, 1, 5_000])
        self.folded_at_once_bytes = rng.choice([1, 300, 64 * 1024])
        self.rows_for_a_file = (256, 3, 1, 1)[seed % 4]
        self.flushes = rng.choice([1.0, 0.3, 0.1])
        self.calendar = rng.random() < 0.4
        self.violence = rng.choice([0.3, 1.0, 1.0, 2.0])
        self.settings = _settings(self.partitions).model_copy(
            update={"historian_rows_max": rng.choice([1, 3, 1000]), "dedup_days": self.dedup_days}
        )
        self.topics = topics_of(self.settings)
        self.kafka = Kafka(self.topics, self.partitions, self.dedup_days, self.kept_for)
        self.changelogs = {
            "accounts": self.topics.accounts_changelog,
            "seen": self.topics.seen_changelog,
            "replies": self.topics.replies_changelog,
            "recent_replies": self.topics.recent_replies_changelog,
        }
        self.loop = Loop()
        self.group = Group()
        self.skew_ms = dict.fromkeys(range(self.partitions), 0)
        self.hosts = [
            Host(f"worker-{name}", Disk(self._before_local_write, self._is_flushed))
            for name in "ABC"[: rng.randint(1, 3)]
        ]
        self.orphans: list[Send] = []
        # How often a worker has begun to apply each record.
        self.taken: Counter[tuple[str, int, int]] = Counter()
        self.history = Tables()
        self.historian_consumers: list[Consumer] = []
        self.sinks = [journal_sink(self.settings), dead_letter_sink(self.settings)]
        self.historians: list[HistorianProcess] = []
        self.clients = Clients(self)

    def say(self, text: Callable[[], str]) -> None:
        """Give a line to the trace, if anyone reads it."""
        if self.trace is not None:
            self.trace(f"{self.steps:5} {text()}")

    def append(self, topic: str, partition: int, value: bytes, key: bytes | None = None) -> Record:
        """Append a record to its log, at the time of that partition's broker."""
        return self.kafka.append(topic, partition, key, value, self.now_ms - self.skew_ms[partition])

    def run(self) -> None:
        """Let everything happen, then come to rest: all processes up, all records read, all requests answered."""
        self.historians = [HistorianProcess(self, sink) for sink in self.sinks]
        for host in self.hosts:
            self._start(host)
        self.clients.create_some()
        actions = self.rng.randint(15, 40)
        while actions:
            roll = self.rng.random()
            if roll < 0.06:
                self.clients.act()
                actions -= 1
            elif roll < 0.06 + 0.06 * self.violence:
                self._do_harm()
            else:
                self._go_on()
            self._tick(self.rng.random() * 0.04)
        self._come_to_rest()

    def _come_to_rest(self) -> None:
        self.say(lambda: "harm ends")
        self.harmful = False
        self.orphans.clear()
        while True:
            # A silent worker is heard again, or is expelled; a host without a worker starts one.
            for host in self.hosts:
                if host.worker is None:
                    self._start(host)
                else:
                    host.worker.is_paused = host.worker.is_deaf = False
            self._tick(self.session_seconds)
            while self._go_on_somewhere():
                self._tick(0.02)
            if self.kafka.committed != self._input_ends():
                self._rebalance()
                continue
            answered = {correlation for correlation, _ in self.replies()}
            unanswered = [
                each
                for each in self.clients.requests
                # A counted request that is sent again is another request, so it is not.
                if answered.isdisjoint(each.correlations) and not isinstance(each.command, CountRequest | CountRefused)
            ]
            if not unanswered:
                return
            for request in unanswered:
                self.clients.ask_again(request)

    def replies(self) -> Iterator[tuple[str, Reply]]:
        """The replies that were sent, all of them, each with its request's correlation."""
        for partition in range(self.partitions):
            for record in self.kafka.log(self.topics.replies, partition).records:
                yield from codecs.decode_replies(record.value).replies

    def _input_ends(self) -> dict[tuple[str, int], int]:
        ends = {
            (topic, partition): self.kafka.log(topic, partition).end
            for topic in (self.topics.usage, self.topics.intake)
            for partition in range(self.partitions)
        }
        return {place: end for place, end in ends.items() if end}

    def _tick(self, seconds: float) -> None:
        """Let time pass. A worker that the coordinator hears has its lease renewed."""
        self.steps += 1
        assert self.steps < STEPS_MAX, "the world does not come to rest"
        self.mono += seconds
        self.now_ms += round(seconds * 1000)
        for worker in self.group.heard_at:
            if worker.is_alive and not worker.is_paused and not worker.is_deaf:
                self.group.heard_at[worker] = self.mono
                worker.lease.renew(self.mono)

    # Steps of processes that work as they should.

    def _go_on(self) -> bool:
        """Make one step of a process chosen at random; returns False where that one had nothing to do."""
        running = [each for host in self.hosts if (each := host.worker) is not None and not each.is_paused]
        if self.harmful:
            running = [worker for worker in running if not worker.is_slow or self.rng.random() < 0.1]
        roll = self.rng.random()
        if roll < 0.8 and running:
            worker = self.rng.choice(running)
            did = self._work(worker)
            self._notice_death(worker)
            return did
        if roll < 0.9:
            return self._rebalance_is_due() and self._rebalance()
        return self._write_history(self.rng.choice(self.historians))

    def _go_on_somewhere(self) -> bool:
        """Make one step of the first process that can make one; returns False where all of them wait."""
        for host in self.hosts:
            worker = host.worker
            if worker is not None and not worker.is_paused:
                did = self._work(worker)
                self._notice_death(worker)
                if did:
                    return True
        if self._rebalance_is_due() and self._rebalance():
            return True
        return any(self._write_history(each) for each in self.historians)

    def _work(self, worker: Worker) -> bool:
        rng = self.rng
        kinds = ["send", "fetch", "recover", "commit", "rejoin"]
        start = rng.choice([0, 0, 0, 1, 2, 3, 4])
        for kind in kinds[start:] + kinds[:start]:
            if kind == "send" and worker.sends:
                self._advance(worker, rng.choice(worker.sends))
                return True
            if kind == "fetch" and worker.positions:
                places = [p for p, at in worker.positions.items() if at < self.kafka.log(*p).end]
                if places:
                    worker.fetch(*rng.choice(places), rng.choice([1, 3, 8, 30]))
                    self.loop.drain()
                    return True
            elif kind == "recover" and worker.recoveries:
                try:
                    worker.recover(rng.choice(worker.recoveries), rng.randint(1, 8))
                except Died:
                    self._kill(worker)
                return True
            elif kind == "commit" and worker.acked and (not self.harmful or rng.random() < 0.15):
                self.group.commit(worker, self.kafka.committed)
                self.say(lambda: f"{worker.name} commits: {self._committed_text()}")
                return True
            elif kind == "rejoin" and not worker.is_member and worker not in self.group.joining and not worker.is_deaf:
                # A worker that was expelled learns of it from its next heartbeat.
                worker.lease.revoke()
                self.group.joining.append(worker)
                return True
        return False

    def _advance(self, worker: Worker, send: Send) -> None:
        if send.records:
            self._land(worker.name, send)
            if self.harmful and self.rng.random() < 0.05 * self.violence:
                self._kill(worker)
        else:
            worker.sends.remove(send)
            self.say(lambda: f"{worker.name} hears of {_short(send.topic)}-{send.partition}@{send.last_offset}")
            send.done.set_result(send.last_offset)
            self.loop.drain()

    def _land(self, name: str, send: Send) -> None:
        key, value = send.records.popleft()
        record = self.append(send.topic, send.partition, value, key)
        send.last_offset = record.offset
        self.say(lambda: f"{name} writes {_short(send.topic)}-{send.partition}@{record.offset} {self._text(record)}")
        if send.topic == self.topics.accounts_changelog:
            account = decode_account(value)
            assert all(0 <= grant.held <= grant.remaining for grant in account.grants), f"overspent: {account}"

    def _land_all(self, worker: Worker) -> None:
        """Let all that a worker has begun to send reach its logs at once."""
        for send in worker.sends:
            while send.records:
                self._land(worker.name, send)

    def _notice_death(self, worker: Worker) -> None:
        failure = worker.failure() if worker.is_alive else None
        if failure is None:
            return
        if not isinstance(failure, Died) and not is_lease_lost(failure):
            raise failure
        self.say(lambda: f"{worker.name} stops: {failure!r}")
        self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        self.say(lambda: f"{worker.name} is dead")
        worker.is_alive = False
        worker.host.worker = None
        if LATE_WRITES in self.hazards:
            self.orphans += [send for send in worker.sends if send.records]
        worker.sends = []
        self.loop.kill(worker.tasks)
        if worker in self.group.joining:
            self.group.joining.remove(worker)

    def _start(self, host: Host) -> None:
        host.starts += 1
        host.worker = Worker(self, host)
        self.group.joining.append(host.worker)
        self.say(lambda: f"{host.worker.name if host.worker else ''} starts")

    def _expired(self) -> list[Worker]:
        """Members that the coordinator has not heard of for a session."""
        return [each for each, at in self.group.heard_at.items() if self.mono - at >= self.session_seconds]

    def _rebalance_is_due(self) -> bool:
        return bool(self._expired()) or any(not each.is_deaf and not each.is_paused for each in self.group.joining)

    def _rebalance(self) -> bool:
        """Expel silent members, take in workers that want to join, and share the partitions out anew."""
        group = self.group
        expired = self._expired()
        members = [each for each in group.heard_at if each.is_alive and each not in expired]
        if any(each.is_paused or each.is_deaf for each in members):
            return False  # the coordinator waits for them
        if LATE_WRITES not in self.hazards and any(each.unsent for each in expired):
            return False
        if LATE_WRITES not in self.hazards:
            for worker in members:
                self._land_all(worker)
        for worker in expired:
            worker.is_member = False
        joining = [each for each in group.joining if not each.is_deaf and not each.is_paused]
        group.joining = [each for each in group.joining if each not in joining]
        members += [each for each in joining if each not in members]
        group.generation += 1
        group.heard_at = dict.fromkeys(members, self.mono)
        group.owners = {p: self.rng.choice(members) for p in range(self.partitions)} if members else {}
        self.say(lambda: f"generation {group.generation}: { ({p: worker.name for p, worker in group.owners.items()}) }")
        for worker in members:
            try:
                worker.assign(group.generation, tuple(p for p, owner in group.owners.items() if owner is worker))
            except Died:
                self._kill(worker)
                continue
            self.loop.drain()
            self._notice_death(worker)
        return True

    def _write_history(self, process: HistorianProcess) -> bool:
        """Make one step of a historian: a query, a block or a fetch; it may fail, or the historian die."""
        rng = self.rng
        client = process.client
        if client.calls:
            call, done = client.calls.pop()
            trouble = rng.random() if self.harmful else 1.0
            process.empty_polls = 0
            if trouble < 0.03:
                done.set_exception(ConnectionError("refused"))
            else:
                result = call()
                if trouble < 0.06:
                    done.set_exception(ConnectionError("no answer, but it was done"))
                elif trouble < 0.09:
                    self._restart_historian(process)
                else:
                    done.set_result(result)
            self.loop.drain()
            return True
        consumer = process.consumer
        if consumer.polling is None:
            return False
        found = consumer.poll(rng.randint(1, 5))
        process.empty_polls = 0 if found else process.empty_polls + 1
        # There was nothing for so long that what was pending is written by now.
        if process.empty_polls > 3:
            return False
        self.mono += 0.1
        consumer.polling.set_result(found)
        self.loop.drain()
        return True

    def _restart_historian(self, process: HistorianProcess) -> None:
        self.say(lambda: f"the historian of {process.sink.table} dies and starts again")
        self.loop.kill(process.tasks)
        self.historians[self.historians.index(process)] = HistorianProcess(self, process.sink)

    # Harm that is done to processes, disks and clocks.

    def _before_local_write(self) -> None:
        if self.harmful and self.rng.random() < 0.02 * self.violence:
            raise Died

    def _is_flushed(self) -> bool:
        return self.rng.random() < self.flushes

    def _do_harm(self) -> None:
        harms = [
            self._crash,
            self._start_one,
            self._start_one,
            self._start_one,
            self._start_one,
            self._pause,
            self._pause,
        ]
        harms += [self._wake, self._wake, self._wake, self._wake, self._cut_off, self._wait, self._wait]
        harms += [self._rebalance, self._rebalance, self._clean, self._clean]
        harms += [self._slow_down, self._skew, self._pass_days, self._disturb_historian]
        if self.calendar:
            harms += [self._pass_days, self._pass_days]
        if LATE_WRITES in self.hazards:
            harms += [self._pause, self._wake, self._clean, self._land_late, self._land_late, self._land_late]
        harm = self.rng.choice(harms)
        harm()

    def _random_worker(self) -> Worker | None:
        running = [host.worker for host in self.hosts if host.worker is not None]
        return self.rng.choice(running) if running else None

    def _crash(self) -> None:
        worker = self._random_worker()
        if worker is not None:
            self._kill(worker)
            if self.rng.random() < 0.3:
                self.say(lambda: f"{worker.host.name} loses its disk")
                worker.host.disk.lose()

    def _start_one(self) -> None:
        down = [host for host in self.hosts if host.worker is None]
        if down:
            self._start(self.rng.choice(down))

    def _pause(self) -> None:
        """Pause a worker. What it began to send reaches its log at once, unless late writes are allowed."""
        worker = self._random_worker()
        if worker is None or worker.is_paused:
            return
        self.say(lambda: f"{worker.name} is paused")
        worker.is_paused = True
        if LATE_WRITES not in self.hazards:
            self._land_all(worker)

    def _slow_down(self) -> None:
        """Make a worker slow, so that it gets little done from now on; or end that."""
        worker = self._random_worker()
        if worker is not None:
            worker.is_slow = not worker.is_slow
            self.say(lambda: f"{worker.name} is {'slow' if worker.is_slow else 'as quick as ever'}")

    def _wake(self) -> None:
        silent = [host.worker for host in self.hosts if host.worker and (host.worker.is_paused or host.worker.is_deaf)]
        if silent:
            worker = self.rng.choice(silent)
            self.say(lambda: f"{worker.name} wakes, or is heard again")
            worker.is_paused = worker.is_deaf = False

    def _cut_off(self) -> None:
        """Cut a worker off: the coordinator hears no more of it, but it goes on."""
        worker = self._random_worker()
        if worker is not None:
            self.say(lambda: f"{worker.name} is cut off from the coordinator")
            worker.is_deaf = True

    def _wait(self) -> None:
        self._tick(self.rng.choice([1.0, self.session_seconds]))

    def _clean(self) -> None:
        topic = self.rng.choice(list(self.changelogs.values()))
        partition = self.rng.randrange(self.partitions)
        waiting = self.kafka.log(self.topics.intake, partition).read(
            self.kafka.committed.get((self.topics.intake, partition), 0), None, 1
        )
        now_ms = min(self.now_ms, *(record.at_ms for record in waiting)) if waiting else self.now_ms
        removed = self.kafka.clean(topic, partition, now_ms, self.rng)
        self.say(lambda: f"the broker cleans {removed} records from {_short(topic)}-{partition}")

    def _skew(self) -> None:
        """Give a partition another leader, whose clock differs."""
        partition = self.rng.randrange(self.partitions)
        self.skew_ms[partition] = self.rng.choice([0, 50, 3_000])
        self.say(lambda: f"the clock of partition {partition} is {self.skew_ms[partition]} ms behind")

    def _pass_days(self) -> None:
        """Let hours or days pass in which nothing happens."""
        days = self.rng.choice([0.1, 1, 5, 13])
        if self.calendar and self.now_ms + days * DAY_MS < START_MS + self.days_max * DAY_MS:
            self.now_ms += round(days * DAY_MS)
            self.say(lambda: f"{days} days pass")

    def _disturb_historian(self) -> None:
        process = self.rng.choice(self.historians)
        if self.rng.random() < 0.5:
            self._restart_historian(process)
        else:
            self.say(lambda: f"the historian of {process.sink.table} rebalances")
            process.empty_polls = 0
            self.loop.start(process.tasks, process.consumer.rebalance())
            self.loop.drain()

    def _land_late(self) -> None:
        """Land a record that a process sent before it died or was paused: it comes late out of the network."""
        paused = [host.worker for host in self.hosts if host.worker is not None and host.worker.is_paused]
        late = self.orphans + [send for worker in paused for send in worker.sends if send.records]
        if late:
            send = self.rng.choice(late)
            self._land("the network", send)
            self.orphans = [send for send in self.orphans if send.records]

    # Texts for the trace.

    def _committed_text(self) -> str:
        return " ".join(f"{_short(topic)}-{p}@{offset}" for (topic, p), offset in sorted(self.kafka.committed.items()))

    def _text(self, record: Record) -> str:
        topics = self.topics
        if record.topic == topics.journal:
            facts = codecs.decode_facts(record.value)
            return " ".join(f"[{f.offset}.{f.index} {f.kind} {f.project} {f.event_id} {f.amount}]" for f in facts)
        if record.topic == topics.accounts_changelog:
            account = decode_account(record.value)
            left = sum(grant.remaining for grant in account.grants)
            return f"{account.project} at {account.last_offset}: {left}"
        if record.topic in (topics.replies_changelog, topics.recent_replies_changelog):
            kept = [codecs.decode_kept_reply(value) for _, value in codecs.decode_kept_replies(record.value)]
            return " ".join(f"[{each.offset}: {each.reply.status} {each.reply.code}]" for each in kept)
        if record.topic == topics.replies:
            replies = codecs.decode_replies(record.value).replies
            return " ".join(f"{correlation}: {reply.status} {reply.code}" for correlation, reply in replies)
        return ""


@contextmanager
def in_place_of_real_parts(world: World) -> Iterator[None]:
    """Put the world's parts in the place of the few that reach out of the process, for one run, and make limits
    small."""

    def seen_records(seen: dict[bytes, int], day: int, first_offset: int) -> Iterator[tuple[bytes, bytes]]:
        entries = list(seen.items())
        for part, start in enumerate(range(0, len(entries), 3)):
            for key, value in real_seen_records(dict(entries[start : start + 3]), day, first_offset):
                # Parts are numbered as the real function numbers those of a batch that is too large for one record.
                yield key[:2] + part.to_bytes(4, "big") + key[6:], value

    real_seen_records = agents.seen_records
    history_clock = SimpleNamespace(monotonic=lambda: world.mono)
    loggers = [historian.log, decider.log, batches.log]
    with ExitStack() as stack:
        for module, name, value in (
            (agents, "seen_records", seen_records),
            (decider, "ACCOUNTS_CACHED_MAX", world.accounts_cached_max),
            (envelopes, "PACKED_AT_ONCE", world.record_items_max),
            (decider, "FOLDED_AT_ONCE_BYTES", world.folded_at_once_bytes),
            (codecs, "RECORD_ITEMS_MAX", world.record_items_max),
            (rocks, "PartitionFile", MemoryFile),
            (rocks, "ROWS_FOR_A_FILE", world.rows_for_a_file),
            (rocks, "shutil", SimpleNamespace(rmtree=remove_tree)),
            (historian, "AIOKafkaConsumer", lambda **_settings: Consumer(world)),
            (historian, "asyncio", AsyncioInHistory()),
            (historian, "time", history_clock),
            (pace, "time", history_clock),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        for logger in loggers:
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL + 1)
        yield


_settings_cache: dict[int, Settings] = {}


def _settings(partitions: int) -> Settings:
    if partitions not in _settings_cache:
        values: dict[str, Any] = {"kafka_url": "simulated:9092", "topic_prefix": "s", "partitions": partitions}
        _settings_cache[partitions] = Settings.model_validate(values)
    return _settings_cache[partitions]


def _short(topic: str) -> str:
    return topic.removeprefix("s.").removeprefix("s-worker-")
