"""One account and what may happen to it: grants, charges in burn-down order, the hard stop, renewals, keys.

Every function here takes a Booking: the account, the intake record's place and time, and the facts stated so far. It
either changes the account and states facts, or refuses and changes nothing.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from schemas.commands import (
    Admit,
    AnyCommand,
    ChangePlan,
    CloseProject,
    CreateKey,
    CreateProject,
    RefundTopUp,
    ReopenProject,
    RevokeKey,
    SetStanding,
    TopUp,
)
from schemas.events import Usage
from schemas.ledger import Account, ApiKey, Fact, Grant, Reply, StoredReply, entry_id
from schemas.prices import PriceBook
from schemas.problems import CODES, Rejection
from streams.core.plans import BUNDLES, PLANS, Plan, not_refundable, refund_cents, renewal_after

# How many facts one event or command may state: 40 years of missed renewals fit.
FACTS_PER_SLOT = 1024
REPLIES_KEPT = 32
KEYS_MAX = 100

_BURN_DOWN = {"allowance": 0, "promotional": 1, "top_up": 2}


class Booking:
    """A decision in the making on one account: where it stands in the log, and the facts it states.

    `slot` is the event's place in its record. A fact's index follows from it alone, so that a repeat of the record
    names the same facts the same.
    """

    __slots__ = ("account", "at_ms", "facts", "next_index", "offset", "partition")

    def __init__(self, account: Account, partition: int, offset: int, slot: int, at_ms: int, facts: list[Fact]) -> None:
        self.partition = partition
        self.offset = offset
        self.facts = facts
        self.move_to(account, slot, at_ms)

    def move_to(self, account: Account, slot: int, at_ms: int) -> None:
        """Go on with another event of the same record."""
        self.account = account
        self.next_index = slot * FACTS_PER_SLOT
        # The log's clock may step back when a broker takes over; an account's never does.
        self.at_ms = at_ms if at_ms > account.last_at_ms else account.last_at_ms

    def state(
        self,
        kind: str,
        *,
        environment: str = "",
        operation: str = "",
        quantity: int = 0,
        amount: int = 0,
        balance: int = 0,
        grant_id: str = "",
        reason: str = "",
        price_version: str = "",
        usage: Usage | None = None,
        key_id: str = "",
        occurred_at_ms: int | None = None,
        metadata: str = "",
    ) -> str:
        """State one fact; returns its id."""
        index = self.next_index
        self.next_index = index + 1
        if usage is None:
            source = event_id = job_id = ""
        else:
            source, event_id, job_id, metadata = usage.source, usage.event_id, usage.job_id, usage.metadata
            key_id, occurred_at_ms = usage.key_id, usage.occurred_at_ms
        self.facts.append(
            Fact(
                self.offset,
                index,
                kind,
                self.account.project,
                environment,
                operation,
                quantity,
                amount,
                balance,
                grant_id,
                reason,
                price_version,
                source,
                event_id,
                job_id,
                key_id,
                self.at_ms if occurred_at_ms is None else occurred_at_ms,
                self.at_ms,
                metadata,
            )
        )
        return entry_id(self.partition, self.offset, index)


def available(account: Account, environment: str) -> int:
    """Microcredits that this environment's budget can still spend."""
    left = 0
    for grant in account.grants:
        if grant.environment == environment:
            left += grant.remaining
    return left


def settle(booking: Booking) -> None:
    """Book every renewal that is due: what is left of an allowance expires, and the next one is granted.

    A renewal's entries bear the renewal's own time, so it does not matter what woke the account, or when.
    """
    account = booking.account
    while booking.at_ms >= account.renews_at_ms:
        renewed_at_ms = account.renews_at_ms
        for grant in [g for g in account.grants if g.expires_at_ms and g.expires_at_ms <= renewed_at_ms]:
            account.grants.remove(grant)
            if grant.remaining:
                booking.state(
                    "expiry",
                    environment=grant.environment,
                    amount=-grant.remaining,
                    balance=available(account, grant.environment),
                    grant_id=grant.id,
                    reason=grant.kind,
                    occurred_at_ms=grant.expires_at_ms,
                )
        if account.next_plan:
            _move_to_plan(booking, account.next_plan, account.next_allowance, renewed_at_ms)
        account.renews_at_ms = renewal_after(account.signed_up_at_ms, renewed_at_ms)
        if account.allowance and not account.closed_at_ms:
            _grant(booking, "allowance", "production", account.allowance, renewed_at_ms, account.renews_at_ms)


def charge(booking: Booking, usage: Usage, book: PriceBook) -> tuple[str, str]:
    """Charge one use in burn-down order, whole or not at all; gives ("", ""), or a refusal's code and detail.

    Each entry draws on one grant: a line that two grants pay for has two entries, and only the first bears the
    quantity. A use that costs nothing leaves an entry of 0. Refusals: `project_closed`, then `plan_required`, then
    `unknown_operation`, then `out_of_credits`. What was used before the project was closed is charged all the same.
    """
    account = booking.account
    if account.closed_at_ms and usage.occurred_at_ms >= account.closed_at_ms:
        return _refuse(booking, usage, book, "project_closed", f"Project {account.project} is closed")
    operation, surcharge = usage.operation, usage.surcharge
    needed_plan = book.plan_required.get(operation)
    if needed_plan is not None and PLANS[account.plan].rank < PLANS[needed_plan].rank:
        return _refuse(
            booking, usage, book, "plan_required", f"{operation} needs the {needed_plan} plan or a higher one"
        )
    rate = book.rates.get(operation)
    surcharge_rate = book.rates.get(surcharge) if surcharge else 0
    if rate is None or surcharge_rate is None:
        # Whoever accepted the event knew a newer price book.
        detail = f"Price book {book.version} has no price for {operation} {surcharge}".rstrip()
        return _refuse(booking, usage, book, "unknown_operation", detail)
    total = (rate + surcharge_rate) * usage.quantity
    left = available(account, usage.environment)
    if total > left:
        return _refuse(
            booking,
            usage,
            book,
            "out_of_credits",
            f"{operation} costs {format_credits(total)} credits; {format_credits(left)} are available",
        )
    left = _charge_line(booking, usage, book, operation, rate * usage.quantity, left)
    if surcharge:
        _charge_line(booking, usage, book, surcharge, surcharge_rate * usage.quantity, left)
    return "", ""


def duplicate(booking: Booking, usage: Usage) -> None:
    """An event that was decided before: stated, for the count, and nothing else."""
    booking.state(
        "duplicate",
        environment=usage.environment,
        operation=usage.operation,
        quantity=usage.quantity,
        balance=available(booking.account, usage.environment),
        usage=usage,
    )


def open_account(command: CreateProject, partition: int, offset: int, at_ms: int, facts: list[Fact]) -> Account:
    """A new project's account with its first allowance. Raises Rejection."""
    plan = _plan(command.plan)
    allowance = command.contract_allowance if plan.name == "enterprise" else plan.allowance
    account = Account(
        command.project,
        command.name,
        plan.name,
        allowance,
        at_ms,
        renewal_after(at_ms, at_ms),
        [],
        [],
        [],
        offset,
        -1,
        at_ms,
    )
    booking = Booking(account, partition, offset, 0, at_ms, facts)
    booking.state("project", reason=plan.name)
    if allowance:
        _grant(booking, "allowance", "production", allowance, at_ms, account.renews_at_ms)
    return account


def command_reply(booking: Booking, command: AnyCommand, book: PriceBook, already_decided: bool) -> Reply:
    """Decide a command on an open account. `already_decided`: its event was seen before (Admit only).

    A refusal is a reply, never an exception.
    """
    try:
        match command:
            case Admit():
                return _admit(booking, command.usage, book, already_decided)
            case TopUp():
                return _top_up(booking, command)
            case CloseProject():
                return _close(booking, command)
            case ReopenProject():
                return _reopen(booking)
            case RefundTopUp():
                return _refund_top_up(booking, command)
            case ChangePlan():
                return _change_plan(booking, command)
            case SetStanding():
                return _set_standing(booking, command)
            case CreateKey():
                return _create_key(booking, command)
            case RevokeKey():
                return _revoke_key(booking, command)
            case CreateProject():
                raise Rejection("project_exists", f"Project {command.project!r} exists")
    except Rejection as rejection:
        return Reply(rejection.status, rejection.code, rejection.detail, 0, 0, "")


def fingerprint(command: AnyCommand) -> bytes:
    """16 bytes over what a command asks, leaving out who waits for the reply and when it was sent."""
    neutral = msgspec.structs.replace(command, correlation="", reply_instance="", reply_partition=0)
    if isinstance(neutral, Admit):
        neutral = msgspec.structs.replace(neutral, usage=msgspec.structs.replace(neutral.usage, occurred_at_ms=0))
    return blake2b(msgspec.msgpack.encode(neutral), digest_size=16).digest()


def reply_key(command: AnyCommand) -> bytes:
    """16 bytes under which a command's reply is kept: its idempotency key, or else the request itself."""
    text = f"key:{command.idempotency_key}" if command.idempotency_key else f"request:{command.correlation}"
    return blake2b(text.encode(), digest_size=16, key=command.project.encode()).digest()


def keep_reply(account: Account, command: AnyCommand, offset: int, reply: Reply) -> None:
    """Remember a reply for a repeat of its command; the oldest goes once there are too many."""
    account.replies.append(StoredReply(reply_key(command), fingerprint(command), offset, reply))
    if len(account.replies) > REPLIES_KEPT:
        del account.replies[: len(account.replies) - REPLIES_KEPT]


def format_credits(microcredits: int) -> str:
    """Credits as a plain decimal string, exact: 20000 is "0.02"."""
    sign = "-" if microcredits < 0 else ""
    whole, fraction = divmod(abs(microcredits), 1_000_000)
    return f"{sign}{whole}.{fraction:06d}".rstrip("0").rstrip(".") if fraction else f"{sign}{whole}"


def _charge_line(booking: Booking, usage: Usage, book: PriceBook, operation: str, amount: int, left: int) -> int:
    """Book one line, whose `amount` is known to be covered, on the grants that pay for it; gives what is left."""
    if not amount:
        _charge_fact(booking, usage, book, operation, usage.quantity, 0, left, "")
        return left
    account = booking.account
    quantity = usage.quantity
    for grant in account.grants:
        if grant.environment == usage.environment and grant.remaining:
            drawn = amount if amount < grant.remaining else grant.remaining
            grant.remaining -= drawn
            amount -= drawn
            left -= drawn
            _charge_fact(booking, usage, book, operation, quantity, drawn, left, grant.id)
            quantity = 0
            if not grant.remaining and not grant.expires_at_ms:
                account.grants = [g for g in account.grants if g.remaining or g.expires_at_ms]
            if not amount:
                return left
    raise AssertionError("a charge was not covered although it was checked to be")


def _charge_fact(
    booking: Booking,
    usage: Usage,
    book: PriceBook,
    operation: str,
    quantity: int,
    drawn: int,
    left: int,
    grant_id: str,
) -> None:
    """The hot path of every event: the fact is made by place, not through `Booking.state`."""
    booking.facts.append(
        Fact(
            booking.offset,
            booking.next_index,
            "charge",
            booking.account.project,
            usage.environment,
            operation,
            quantity,
            -drawn,
            left,
            grant_id,
            "",
            book.version,
            usage.source,
            usage.event_id,
            usage.job_id,
            usage.key_id,
            usage.occurred_at_ms,
            booking.at_ms,
            usage.metadata,
        )
    )
    booking.next_index += 1


def _admit(booking: Booking, usage: Usage, book: PriceBook, already_decided: bool) -> Reply:
    first = len(booking.facts)
    if already_decided:
        duplicate(booking, usage)
        code, detail = "", "This event was decided before; nothing was charged for it now"
    else:
        code, detail = charge(booking, usage, book)
    stated = booking.facts[first:]
    return Reply(
        CODES[code].status if code else 200,
        code,
        detail,
        -sum(fact.amount for fact in stated),
        stated[-1].balance,
        entry_id(booking.partition, booking.offset, stated[0].index),
    )


def _grant(
    booking: Booking,
    kind: str,
    environment: str,
    amount: int,
    granted_at_ms: int,
    expires_at_ms: int,
    metadata: str = "",
) -> str:
    account = booking.account
    grant_id = f"{kind}-{booking.offset}-{booking.next_index}"
    account.grants.append(Grant(grant_id, kind, environment, amount, amount, granted_at_ms, expires_at_ms))
    account.grants.sort(key=lambda grant: (_BURN_DOWN[grant.kind], grant.granted_at_ms))
    return booking.state(
        "grant",
        environment=environment,
        amount=amount,
        balance=available(account, environment),
        grant_id=grant_id,
        reason=kind,
        occurred_at_ms=granted_at_ms,
        metadata=metadata,
    )


def _refuse(booking: Booking, usage: Usage, book: PriceBook, code: str, detail: str) -> tuple[str, str]:
    booking.state(
        "refusal",
        environment=usage.environment,
        operation=usage.operation,
        quantity=usage.quantity,
        balance=available(booking.account, usage.environment),
        reason=code,
        price_version=book.version,
        usage=usage,
    )
    return code, detail


def _top_up(booking: Booking, command: TopUp) -> Reply:
    _check_open(booking.account)
    amount = BUNDLES.get(command.bundle_usd)
    if amount is None:
        raise Rejection(
            "invalid_request", f"No bundle of ${command.bundle_usd}; there are {sorted(BUNDLES)}", "bundle_usd"
        )
    metadata = msgspec.json.encode({"reference": command.reference}).decode() if command.reference else ""
    fact_id = _grant(booking, "top_up", command.environment, amount, booking.at_ms, 0, metadata)
    return Reply(200, "", "", amount, available(booking.account, command.environment), fact_id)


def _close(booking: Booking, command: CloseProject) -> Reply:
    account = booking.account
    _check_open(account)
    account.closed_at_ms = booking.at_ms
    note = msgspec.json.encode({"reason": command.reason}).decode()
    fact_id = booking.state("project", reason="closed", metadata=note)
    return Reply(200, "", "", 0, available(account, "production"), fact_id)


def _reopen(booking: Booking) -> Reply:
    """Bundles are as they were. A month's allowance is granted once, however often a project is closed and reopened."""
    account = booking.account
    if not account.closed_at_ms:
        raise Rejection("project_open", f"Project {account.project!r} is not closed")
    account.closed_at_ms = 0
    fact_id = booking.state("project", reason="reopened")
    granted = 0
    if account.allowance and not any(grant.kind == "allowance" for grant in account.grants):
        granted = account.allowance
        _grant(booking, "allowance", "production", granted, booking.at_ms, account.renews_at_ms)
    return Reply(200, "", "", granted, available(account, "production"), fact_id)


def _check_open(account: Account) -> None:
    if account.closed_at_ms:
        raise Rejection("project_closed", f"Project {account.project!r} is closed")


def _refund_top_up(booking: Booking, command: RefundTopUp) -> Reply:
    account = booking.account
    grant = next((grant for grant in account.grants if grant.id == command.grant_id), None)
    if grant is None or grant.kind != "top_up":
        raise Rejection("unknown_grant", f"No bundle {command.grant_id!r} that has credits left", "grant_id")
    standing = account.is_in_good_standing
    if why := not_refundable(grant.granted, grant.remaining, grant.granted_at_ms, booking.at_ms, standing):
        raise Rejection("not_refundable", why, "grant_id")
    account.grants.remove(grant)
    left = available(account, grant.environment)
    note = {"refund_cents": refund_cents(grant.remaining), "reason": command.reason}
    fact_id = booking.state(
        "refund",
        environment=grant.environment,
        amount=-grant.remaining,
        balance=left,
        grant_id=grant.id,
        reason=grant.kind,
        metadata=msgspec.json.encode(note).decode(),
    )
    return Reply(200, "", "", grant.remaining, left, fact_id)


def _change_plan(booking: Booking, command: ChangePlan) -> Reply:
    """What gives more of anything, and less of nothing, is given at once: the plan, and for the rest of the month what
    its allowance has more. All else waits for the renewal, and what is paid for is kept until then. So an allowance
    only rises within a month, and going back and forth gains nothing."""
    account = booking.account
    _check_open(account)
    plan = _plan(command.plan)
    allowance = command.contract_allowance if plan.name == "enterprise" else plan.allowance
    if plan.rank < PLANS[account.plan].rank or allowance < account.allowance:
        account.next_plan, account.next_allowance = plan.name, allowance
        fact_id = _state_plan(booking, plan.name, account.renews_at_ms)
        return Reply(200, "", "", 0, available(account, "production"), fact_id)
    more = allowance - account.allowance
    fact_id = _move_to_plan(booking, plan.name, allowance, booking.at_ms)
    if more:
        _grant(booking, "allowance", "production", more, booking.at_ms, account.renews_at_ms)
    return Reply(200, "", "", more, available(account, "production"), fact_id)


def _move_to_plan(booking: Booking, plan: str, allowance: int, at_ms: int) -> str:
    account = booking.account
    fact_id = _state_plan(booking, plan, at_ms)
    account.plan, account.allowance = plan, allowance
    account.next_plan, account.next_allowance = "", 0
    return fact_id


def _state_plan(booking: Booking, plan: str, effective_at_ms: int) -> str:
    note = msgspec.json.encode({"from": booking.account.plan}).decode()
    return booking.state("plan", reason=plan, occurred_at_ms=effective_at_ms, metadata=note)


def _set_standing(booking: Booking, command: SetStanding) -> Reply:
    booking.account.is_in_good_standing = command.is_good
    note = msgspec.json.encode({"reason": command.reason}).decode()
    fact_id = booking.state("standing", reason="good" if command.is_good else "bad", metadata=note)
    return Reply(200, "", "", 0, available(booking.account, "production"), fact_id)


def _plan(name: str) -> Plan:
    plan = PLANS.get(name)
    if plan is None:
        raise Rejection("invalid_request", f"No plan {name!r}; there are {', '.join(PLANS)}", "plan")
    return plan


def _create_key(booking: Booking, command: CreateKey) -> Reply:
    keys = booking.account.keys
    if any(key.id == command.key_id for key in keys):
        raise Rejection("key_exists", f"Key {command.key_id!r} exists", "key_id")
    if len(keys) >= KEYS_MAX:
        raise Rejection("invalid_request", f"A project has at most {KEYS_MAX} keys, revoked ones too")
    keys.append(ApiKey(command.key_id, command.key_hash, command.environment, command.scopes, booking.at_ms, 0))
    fact_id = booking.state("key", environment=command.environment, reason="created", key_id=command.key_id)
    return Reply(200, "", "", 0, available(booking.account, command.environment), fact_id)


def _revoke_key(booking: Booking, command: RevokeKey) -> Reply:
    for key in booking.account.keys:
        if key.id == command.key_id:
            key.revoked_at_ms = key.revoked_at_ms or booking.at_ms
            fact_id = booking.state("key", environment=key.environment, reason="revoked", key_id=key.id)
            return Reply(200, "", "", 0, available(booking.account, key.environment), fact_id)
    raise Rejection("unknown_key", f"Project {command.project!r} has no key {command.key_id!r}", "key_id")
