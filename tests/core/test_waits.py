"""Waits: each 429 tells exactly when the same request would pass all limits that count for it."""

from itertools import pairwise
from random import Random

import msgspec
import pytest

from schemas.accounts import Account, Limits
from schemas.commands import (
    Admit,
    AnyCommand,
    CaptureHold,
    ChangePlan,
    CloseProject,
    CountRequest,
    EndRaise,
    RaiseLimits,
    ReleaseHold,
    ReopenProject,
    SetLimits,
    TopUp,
)
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from schemas.replies import Reply
from streams.core import holds
from streams.core.booking import Booking
from streams.core.decisions import command_reply
from streams.core.fold import IntakeItem, fold
from streams.core.ledger import settle
from streams.core.price_list import Prices
from streams.core.replies import Kept
from streams.core.waits import CHANGES_MAX
from tests.core.builders import CREDIT, START_MS, addressed, admit, create_project, usage
from tests.core.test_ledger import Bench

SECOND_MS, MINUTE_MS = 1_000, 60_000
OPERATIONS = ("read", "read", "chat.message", "image", "image", "content_plan", "blog_post", "video.premium", "website")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Account).decode


class History:
    """A random history of one project: requests of all kinds, and all that changes limits or credits, some of it by
    itself while somebody waits. Each 429 is held to what it says."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.at_ms = START_MS
        self.prices = Prices([self.book()] if seed % 5 == 0 else [])
        self.bench = Bench(self.random.choice(("free", "free", "hobby")), START_MS, self.prices)
        self.limited: dict[str, int] = {"window": 0, "ceiling": 0, "more than either": 0}
        self.offset = 0
        self.set_limits()

    def book(self) -> PriceBook:
        """Prices that fall some time in this history."""
        rates = FIRST_PRICE_BOOK.rates | {"image": 11 * CREDIT, "content_plan": 0}
        return msgspec.structs.replace(
            FIRST_PRICE_BOOK,
            version="cheaper",
            rates=rates,
            effective_at_ms=START_MS + self.random.randrange(10 * MINUTE_MS),
        )

    def run(self, steps: int) -> None:
        random = self.random
        pace_ms = random.choice((300, 2_000, 20_000))
        for _ in range(steps):
            self.at_ms += random.choice((0, 1, random.randrange(pace_ms), random.randrange(10 * pace_ms)))
            if self.bench.account.closed_at_ms and random.random() < 0.3:
                self.do(ReopenProject)
            elif random.random() < 0.8:
                self.ask(self.request())
            else:
                self.change()

    def request(self) -> AnyCommand:
        random = self.random
        if random.random() < 0.2:
            return CountRequest(project="p1", operation="GET /", environment="production", **addressed())
        event = usage(
            f"e{random.randrange(40)}" if random.random() < 0.2 else f"n{self.offset}",
            operation=random.choice(OPERATIONS),
            quantity=random.choice((1, 1, 1, 2, 30)),
            surcharge=random.choice(("", "", "social_post.image")),
            environment=random.choice(("production", "production", "production", "preview")),
            # Some tell of what was used before, when the project may have been closed or on another plan.
            occurred_at_ms=self.at_ms - random.choice((0, 0, 0, random.randrange(2_000), random.randrange(MINUTE_MS))),
            job_id=random.choice(("", f"j{random.randrange(4)}")),
        )
        return admit(event, hold_seconds=random.choice((0, 0, 1, 20, 45, 3_600)))

    def ask(self, command: AnyCommand) -> None:
        self.offset += 1
        is_decided = self.random.random() < 0.1
        account = _encode(self.bench.account)
        reply = self.decide(self.bench.account, command, self.at_ms, is_decided)
        if reply.code == "rate_limited":
            self.check(account, command, reply, is_decided)
        else:
            assert reply.rate is None or not reply.rate.retry_at_ms

    def check(self, before: bytes, command: AnyCommand, reply: Reply, is_decided: bool) -> None:
        """The same request passes after the whole seconds that it was told to wait, and after no fewer, but where it
        would pass for less than a second: nobody who is told seconds can count on that."""
        assert reply.rate is not None and reply.rate.retry_at_ms > self.at_ms
        seconds = -(-(reply.rate.retry_at_ms - self.at_ms) // SECOND_MS)
        assert reply.detail.endswith(f"Retry after {seconds} seconds")
        after = _encode(self.bench.account)
        for waited in {*range(1, seconds, 7), seconds - 1, seconds} - {0}:
            late_ms = self.at_ms + waited * SECOND_MS
            is_limited = self.is_limited(after, command, late_ms, is_decided)
            if waited < seconds and not is_limited:
                assert self.passes_for_less_than_a_second(after, command, late_ms, is_decided)
            else:
                assert is_limited == (waited < seconds), (waited, seconds)
        for waited_ms in (reply.rate.retry_at_ms, reply.rate.retry_at_ms + SECOND_MS - 1):
            assert not self.is_limited(after, command, waited_ms, is_decided)
        assert self.is_limited(after, command, reply.rate.retry_at_ms - 1, is_decided)
        kind = "ceiling" if "Cost ceiling" in reply.detail else "window"
        self.limited[kind] += 1
        if kind == "window" and isinstance(command, Admit):
            call = CountRequest(project="p1", operation="GET /", environment="production", **addressed())
            free = self.decide(_decode(before), call, self.at_ms).rate
            self.limited["more than either"] += free is not None and free.retry_at_ms < reply.rate.retry_at_ms

    def is_limited(self, account: bytes, command: AnyCommand, at_ms: int, is_decided: bool) -> bool:
        """Whether the same request would be limited, if it came at that time, and nothing else came before. What it
        asks for occurs as much later as it comes."""
        if isinstance(command, Admit):
            occurred_ms = command.usage.occurred_at_ms + at_ms - self.at_ms
            command = msgspec.structs.replace(
                command, usage=msgspec.structs.replace(command.usage, occurred_at_ms=occurred_ms)
            )
        return self.decide(_decode(account), command, at_ms, is_decided).code == "rate_limited"

    def passes_for_less_than_a_second(self, account: bytes, command: AnyCommand, at_ms: int, is_decided: bool) -> bool:
        tried = (self.is_limited(account, command, at_ms + ms, is_decided) for ms in range(1 - SECOND_MS, SECOND_MS))
        times = [ms for ms, is_limited in enumerate(tried) if is_limited]
        return any(later - earlier <= SECOND_MS for earlier, later in pairwise(times) if earlier < SECOND_MS <= later)

    def decide(self, account: Account, command: AnyCommand, at_ms: int, is_decided: bool = False) -> Reply:
        booking = Booking(account, 0, self.offset, 0, at_ms, [], self.prices)
        settle(booking)
        reply = command_reply(booking, command, is_decided)
        account.last_at_ms = booking.at_ms
        settle(booking)
        return reply

    def change(self) -> None:
        """Change the limits or the credits, now or in a while."""
        random, account = self.random, self.bench.account
        self.offset += 1
        what = random.choice(
            ("limits", "raise", "raise", "raise", "end", "plan", "top up", "hold", "trial", "due", "close")
        )
        if what in ("limits", "trial"):
            self.set_limits(is_shadow=what == "trial")
        elif what == "raise":
            starts_ms = self.at_ms + random.choice((0, random.randrange(MINUTE_MS)))
            ends_ms = starts_ms + random.choice((1, 400, 1_500, random.randrange(1, 3 * MINUTE_MS)))
            limits = Limits(random.choice((0, 4, 9)), random.choice((0, 8, 12)), random.choice((0, 90, 400)) * CREDIT)
            self.do(RaiseLimits, limits=limits, starts_at_ms=starts_ms, ends_at_ms=ends_ms, reason="")
        elif what == "end" and account.raises:
            self.do(EndRaise, raise_id=random.choice(account.raises).id)
        elif what == "plan":
            self.do(ChangePlan, plan=random.choice(("free", "hobby")), contract_allowance=0)
        elif what == "top up":
            self.do(TopUp, environment=random.choice(("production", "preview")), bundle_usd=20, reference="")
        elif what == "hold" and account.holds:
            kind = random.choice((CaptureHold, ReleaseHold))
            said = {"reason": ""} if kind is ReleaseHold else {"amount": -1}
            self.do(kind, hold_id=random.choice(account.holds).id, environment="", **said)
        elif what == "close":
            self.do(CloseProject, reason="")
        elif what == "due" and random.random() < 0.5:
            # The month ends while somebody waits.
            self.at_ms = max(self.at_ms, account.renews_at_ms - random.randrange(1, MINUTE_MS))

    def set_limits(self, is_shadow: bool = False) -> None:
        requests, more = self.random.choice((1, 2, 3, 6, 30)), self.random.choice((0, 0, 1, 3))
        limits = Limits(requests, requests + more, self.random.choice((40, 64, 100)) * CREDIT)
        self.do(SetLimits, limits=limits, is_shadow=is_shadow, reason="")

    def do(self, kind: type[AnyCommand], **fields: object) -> None:
        self.decide(self.bench.account, kind(project="p1", **fields, **addressed()), self.at_ms)


def test_in_400_random_histories_every_429_says_the_second_in_which_the_request_passes() -> None:
    limited: dict[str, int] = {}
    for seed in range(400):
        history = History(seed)
        history.run(40)
        for kind, count in history.limited.items():
            limited[kind] = limited.get(kind, 0) + count
    assert min(limited.values()) > 100, limited


def stopped(bench: Bench, operation: str, at_ms: int) -> int:
    """The milliseconds after the start at which an operation that is limited is told to come again."""
    reply = bench.charge(operation, at_ms=START_MS + at_ms)
    assert reply.code == "rate_limited" and reply.rate is not None
    return reply.rate.retry_at_ms - START_MS


def limited_bench(requests: int, burst: int, ceiling: int) -> Bench:
    bench = Bench("hobby")
    bench.do(SetLimits, limits=Limits(requests, burst, ceiling * CREDIT), is_shadow=False, reason="")
    return bench


def test_who_the_window_stops_is_told_to_wait_for_the_ceiling_too() -> None:
    bench = limited_bench(2, 2, 40)
    assert bench.charge("read").status == 200
    assert bench.charge("image", at_ms=START_MS + 12_000).status == 200
    assert stopped(bench, "image", 12_200) == 72_000
    assert stopped(bench, "read", 12_200) == 60_000, "what costs nothing waits for no ceiling"
    assert stopped(bench, "website", 12_200) == 60_000, "no wait helps what costs more than the ceiling"


def test_a_job_that_has_no_room_beside_open_ones_waits_for_no_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    for room, job_waits_ms in ((2, 72_000), (1, 60_000)):
        monkeypatch.setattr(holds, "HOLDS_MAX", room)
        bench = limited_bench(2, 2, 40)
        assert bench.charge("read").status == 200
        assert bench.hold("image", at_ms=START_MS + 12_000).status == 200
        limited = bench.hold("image", at_ms=START_MS + 12_200)
        assert limited.rate is not None and limited.rate.retry_at_ms == START_MS + job_waits_ms
        assert stopped(bench, "image", 12_300) == 72_000, "what is charged at once needs no room"


def test_a_repeat_of_an_event_waits_for_no_ceiling() -> None:
    bench = limited_bench(1, 1, 40)
    bench.charge("image")
    again = command_reply(bench.booking(START_MS + 1), admit(usage("e0", operation="image")), True)
    assert again.rate is not None and again.rate.retry_at_ms == START_MS + MINUTE_MS


def test_a_raise_that_ends_before_the_wait_is_over_does_not_shorten_it() -> None:
    bench = limited_bench(1, 1, 900)
    times = {"starts_at_ms": 0, "ends_at_ms": START_MS + 30_000}
    bench.do(RaiseLimits, limits=Limits(3, 3, 0), reason="", **times)
    for at_ms in (0, 10_000, 20_000):
        assert bench.charge("read", at_ms=START_MS + at_ms).status == 200
    assert stopped(bench, "read", 25_000) == 80_000, "not 60 seconds: only one a minute may come by then"


def test_a_raise_that_begins_shortens_the_wait_and_one_of_less_than_a_second_does_not() -> None:
    for lasts_ms, passes_at_ms in ((1_000, 30_000), (999, 60_000)):
        bench = limited_bench(1, 1, 900)
        times = {"starts_at_ms": START_MS + 30_000, "ends_at_ms": START_MS + 30_000 + lasts_ms}
        bench.do(RaiseLimits, limits=Limits(3, 3, 0), reason="", **times)
        bench.charge("read")
        assert stopped(bench, "read", 1) == passes_at_ms


def test_a_wait_with_more_changes_ahead_than_are_looked_at_is_told_all_the_same() -> None:
    bench = limited_bench(200, 200, 64)
    for number in range(CHANGES_MAX + 5):
        assert bench.hold("read", seconds=1, at_ms=START_MS + number, job_id=f"j{number}").status == 200
    bench.charge("image", at_ms=START_MS + 500)
    bench.charge("image", at_ms=START_MS + 500)
    assert stopped(bench, "image", 501) == 60_500


@pytest.mark.parametrize("limits", [Limits(30, 60, 0), Limits(3, 3, 0)])
def test_150_repeats_under_one_key_meet_the_limit_as_other_requests_do(limits: Limits) -> None:
    set_limits = SetLimits(project="p1", limits=limits, is_shadow=False, reason="", **addressed("limits"))
    bodies = [create_project(), set_limits] + [
        admit(usage("e1", operation="image"), correlation=f"a{number}", key="k") for number in range(150)
    ]
    accounts: dict[str, Account] = {}
    kept = Kept()
    items = [IntakeItem(at, START_MS, body) for at, body in enumerate(bodies)]
    replies = [reply for _, reply in fold(0, items, accounts, {}, kept, "intake").replies[2:]]
    assert [reply.status for reply in replies] == [200] * limits.burst + [429] * (150 - limits.burst)
    told = [reply.rate.remaining for reply in replies if reply.rate is not None]
    assert told == [max(0, limits.requests_per_minute - 1 - number) for number in range(150)]
    assert {(reply.amount, reply.entry_id) for reply in replies[: limits.burst]} == {(32 * CREDIT, replies[0].entry_id)}
    window = accounts["p1"].window
    assert window is not None and (window.requests, window.cost) == (limits.burst, 32 * CREDIT)
    # A repeat that was stopped gets its answer once the window lets it through.
    later = IntakeItem(len(items), START_MS + MINUTE_MS, bodies[-1])
    (_, answer) = fold(0, [later], accounts, {}, kept, "intake").replies[0]
    assert (answer.status, answer.entry_id, answer.rate and answer.rate.remaining) == (
        200,
        replies[0].entry_id,
        limits.requests_per_minute - 1,
    )


def test_a_redelivered_repeat_counts_once_and_is_answered_as_it_was() -> None:
    asked = [admit(usage("e1", operation="image"), correlation=f"a{number}", key="k") for number in range(40)]
    items = [IntakeItem(at, START_MS, body) for at, body in enumerate([create_project(), *asked])]
    accounts: dict[str, Account] = {}
    seen: dict[bytes, int] = {}
    kept = Kept()
    first = fold(0, items, accounts, seen, kept, "intake")
    value = msgspec.msgpack.encode(accounts["p1"])
    again = fold(0, items, accounts, seen, kept, "intake")
    assert msgspec.msgpack.encode(accounts["p1"]) == value and again.facts == []
    assert [reply for _, reply in again.replies] == [reply for _, reply in first.replies]
    assert (again.seen, again.kept) == (first.seen, first.kept)


@pytest.mark.parametrize("content", ["other", "expired"])
def test_a_repeat_that_gets_no_kept_answer_counts_too(content: str) -> None:
    accounts: dict[str, Account] = {}
    seen: dict[bytes, int] = {}
    kept = Kept()
    fold(0, [IntakeItem(0, START_MS, create_project())], accounts, seen, kept, "intake")
    later_ms = START_MS + (25 * 3_600_000 if content == "expired" else 1)
    asked = [admit(usage("e1"), "a1", "k"), admit(usage("e2" if content == "other" else "e1"), "a2", "k")]
    items = [IntakeItem(1, START_MS, asked[0]), IntakeItem(2, later_ms, asked[1])]
    code = {"other": "idempotency_key_reused", "expired": "idempotency_reply_expired"}[content]
    _, reply = fold(0, items, accounts, seen, kept, "intake").replies[1]
    assert (reply.status, reply.code) == (409, code)
    assert reply.rate is not None and reply.rate.remaining == (28 if content == "other" else 29)
