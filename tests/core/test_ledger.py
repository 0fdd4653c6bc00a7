"""The ledger of one account: burn-down order, the hard stop, renewals, the sum of the entries."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.accounts import Account, Grant, Limits
from schemas.facts import ENTRY_KINDS, Fact
from schemas.replies import Reply
from streams.core.booking import Booking, available, format_credits
from streams.core.decisions import command_reply, open_account
from streams.core.ledger import settle
from streams.core.plans import renewal_after
from streams.core.price_list import Prices
from tests.core.builders import CREDIT, START_MS, addressed, admit, create_project, top_up, usage


class Bench:
    """A bench to try commands on: an account, and the facts it has stated so far. Each call is at the next offset. Its
    cost ceiling is lifted."""

    def __init__(self, plan: str = "free", at_ms: int = START_MS, prices: Prices | None = None) -> None:
        self.facts: list[Fact] = []
        self.prices = prices or Prices()
        self.account: Account = open_account(create_project(plan=plan), 0, 0, at_ms, self.facts, self.prices)[0]
        self.account.limits = Limits(0, 0, 1_000_000 * CREDIT)
        self.offset = 0

    def booking(self, at_ms: int = START_MS) -> Booking:
        self.offset += 1
        booking = Booking(self.account, 0, self.offset, 0, at_ms, self.facts, self.prices)
        settle(booking)
        self.account.last_at_ms = booking.at_ms
        return booking

    def do(self, kind: type[Any], /, at_ms: int = START_MS, *, already_decided: bool = False, **fields: Any) -> Reply:
        """Decide a command on the project; what time has brought by `at_ms` is booked first."""
        command = kind(project="p1", **fields, **addressed())
        return command_reply(self.booking(at_ms), command, already_decided)

    def grant(self, kind: str) -> Grant:
        """The newest grant of a kind."""
        return [grant for grant in self.account.grants if grant.kind == kind][-1]

    def entries(self, *kinds: str) -> list[tuple[str, str, int, int]]:
        """The facts of these kinds, each as (kind, reason, amount, held)."""
        return [(f.kind, f.reason, f.amount, f.held) for f in self.facts if f.kind in kinds]

    def charge(
        self,
        operation: str,
        quantity: int = 1,
        environment: str = "production",
        surcharge: str = "",
        at_ms: int = START_MS,
        occurred_at_ms: int = START_MS,
    ):
        used = usage(
            f"e{self.offset}",
            operation=operation,
            quantity=quantity,
            environment=environment,
            surcharge=surcharge,
            occurred_at_ms=occurred_at_ms,
        )
        return command_reply(self.booking(at_ms), admit(used), False)

    def hold(self, operation: str, quantity: int = 1, seconds: int = 3_600, at_ms: int = START_MS, **fields: str):
        used = usage(f"e{self.offset}", operation=operation, quantity=quantity, occurred_at_ms=at_ms, **fields)
        return command_reply(self.booking(at_ms), admit(used, hold_seconds=seconds), False)

    def top_up(self, usd: int = 20, environment: str = "production", at_ms: int = START_MS):
        return command_reply(self.booking(at_ms), top_up(usd, environment=environment), False)

    def entries_sum(self, environment: str = "production") -> int:
        return sum(f.amount for f in self.facts if f.kind in ENTRY_KINDS and f.environment == environment)


def test_a_new_project_has_its_plans_allowance() -> None:
    bench = Bench("hobby")
    assert available(bench.account, "production") == 5_000 * CREDIT
    assert available(bench.account, "preview") == 0
    assert [(f.kind, f.reason) for f in bench.facts] == [
        ("project", "hobby"),
        ("subscription", "hobby"),
        ("grant", "allowance"),
    ]


def test_hard_stop_charges_nothing_at_all() -> None:
    bench = Bench()
    assert bench.charge("website").status == 200
    reply = bench.charge("image")
    assert (reply.status, reply.code, reply.amount) == (402, "out_of_credits", 0)
    assert reply.available == 10 * CREDIT
    assert bench.charge("content_plan").status == 200
    assert available(bench.account, "production") == 0
    assert bench.charge("read").status == 200, "what is free goes on working at zero"


def test_a_social_post_that_can_pay_its_text_but_not_its_image_pays_nothing() -> None:
    bench = Bench()
    bench.charge("website")
    before = len(bench.facts)
    assert bench.charge("social_post.text", surcharge="social_post.image").code == "out_of_credits"
    assert [f.kind for f in bench.facts[before:]] == ["refusal"]
    assert available(bench.account, "production") == 10 * CREDIT


def test_allowance_burns_first_then_top_ups_oldest_first() -> None:
    bench = Bench()
    bench.top_up(20)
    bench.top_up(100)
    bench.charge("website")
    bench.charge("image")  # 10 from the allowance, 22 from the older bundle
    drawn = [(f.grant_id.split("-")[0], f.amount, f.quantity) for f in bench.facts if f.operation == "image"]
    assert drawn == [("allowance", -10 * CREDIT, 1), ("top_up", -22 * CREDIT, 0)]
    assert [g.remaining for g in bench.account.grants] == [0, 3_978 * CREDIT, 20_000 * CREDIT]
    balances = [f.balance for f in bench.facts if f.operation == "image"]
    assert balances == [24_000 * CREDIT, 23_978 * CREDIT]


def test_preview_draws_on_its_own_budget() -> None:
    bench = Bench()
    assert bench.charge("chat.message", environment="preview").code == "out_of_credits"
    bench.top_up(20, "preview")
    assert bench.charge("chat.message", environment="preview").status == 200
    assert available(bench.account, "production") == 250 * CREDIT
    assert available(bench.account, "preview") == 3_999 * CREDIT


def test_renewal_expires_what_is_left_and_grants_anew_at_its_own_time() -> None:
    bench = Bench()
    bench.top_up()
    bench.charge("image")
    renews_at = bench.account.renews_at_ms
    bench.charge("chat.message", at_ms=renews_at + 5_000)
    expiry, grant = (f for f in bench.facts if f.occurred_at_ms == renews_at)
    assert (expiry.kind, expiry.amount) == ("expiry", -218 * CREDIT)
    assert (grant.kind, grant.amount, grant.balance) == ("grant", 250 * CREDIT, 4_250 * CREDIT)
    assert bench.account.renews_at_ms == renewal_after(START_MS, renews_at)
    assert available(bench.account, "production") == bench.entries_sum() == 4_249 * CREDIT


def test_an_account_idle_for_a_year_is_renewed_twelve_times_and_holds_one_allowance() -> None:
    bench = Bench()
    bench.charge("read", at_ms=START_MS + 366 * 86_400_000)
    assert sum(f.kind == "grant" for f in bench.facts) == 13
    assert available(bench.account, "production") == bench.entries_sum() == 250 * CREDIT


def test_an_account_whose_clock_steps_back_keeps_its_time() -> None:
    bench = Bench()
    bench.charge("chat.message", at_ms=START_MS + 10_000)
    bench.charge("chat.message", at_ms=START_MS + 4_000)
    assert [f.booked_at_ms for f in bench.facts if f.kind == "charge"] == [START_MS + 10_000] * 2


def test_unknown_plan_and_bundle_are_refused() -> None:
    assert Bench().top_up(33).code == "invalid_request"


def test_credits_are_exact_decimals() -> None:
    assert [format_credits(n) for n in (0, 20_000, 32_000_000, -500_000, 1)] == ["0", "0.02", "32", "-0.5", "0.000001"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["chat.message", "image", "website", "webhook.delivery", "read", "video.premium", "top_up", "wait"]
            ),
            st.integers(1, 40),
            st.sampled_from(["production", "preview"]),
        ),
        max_size=60,
    )
)
def test_balance_is_the_sum_of_the_entries_and_never_negative(steps: list[tuple[str, int, str]]) -> None:
    bench = Bench("build")
    at_ms = START_MS
    for operation, number, environment in steps:
        if operation == "wait":
            at_ms += number * 86_400_000
        elif operation == "top_up":
            bench.top_up(20, environment, at_ms)
        else:
            bench.charge(operation, number, environment, at_ms=at_ms)
        for each in ("production", "preview"):
            assert available(bench.account, each) == bench.entries_sum(each) >= 0
        assert all(0 <= grant.remaining <= grant.granted for grant in bench.account.grants)
    for environment in ("production", "preview"):
        newest = [f for f in bench.facts if f.kind in ENTRY_KINDS and f.environment == environment]
        if newest:
            assert newest[-1].balance == available(bench.account, environment)
