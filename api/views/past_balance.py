"""Past balances: an account as it was at an earlier time, for GET /v1/balance?at=."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from api.callers.keys import Caller
from api.dependencies import account_for, instant
from api.services import Services
from schemas.accounts import Account
from schemas.problems import Rejection
from streams.core.ledger import settled
from streams.history.facts import wait_for
from streams.history.past_balance import account_at
from streams.kafka.clock import now_ms
from streams.kafka.topics import partition_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def account_as_of(services: Services, caller: Caller, project: str, at: datetime) -> tuple[Account, int, int]:
    """The account from which GET /v1/balance would have been answered at that time, as (account, `at` in Unix
    milliseconds, lag in milliseconds).

    Raises Rejection `invalid_request` for a time to come or without a zone, `unknown_project` for a time before the
    project was opened, and `not_ready` where the history does not catch up.
    """
    at_ms = (instant(at, "at") - _EPOCH) // timedelta(milliseconds=1)
    now = now_ms()
    if at_ms > now:
        raise Rejection("invalid_request", "`at` is yet to come", "at")
    account = account_for(services, project)
    if at_ms < account.signed_up_at_ms:
        raise Rejection("unknown_project", f"There was no project {project!r} at that time", "at")
    if account.last_at_ms <= at_ms:
        # Nothing was booked since: the account is the live one, with what was due by then.
        lag_ms = services.accounts.lag_ms(project)
        return settled(account, at_ms, services.accounts.prices()), at_ms, max(0, at_ms - (now - lag_ms))
    settings = services.settings
    partition = partition_of(project, settings.partitions)
    await wait_for(settings, services.clickhouse, partition, account.last_offset, settings.reply_timeout_seconds)
    past = await services.reads.ask(caller.name, lambda history: account_at(history, project, at_ms))
    if past is None:
        raise Rejection("unknown_project", f"There was no project {project!r} at that time", "at")
    return past, at_ms, 0
