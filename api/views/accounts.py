"""Views of an account: its balance, its project, its recurring items."""

from __future__ import annotations

from collections.abc import Iterable

from api.dependencies import account_for
from api.services import Services
from api.views.pages import Place, page_of
from schemas.accounts import Account, ApiKey, Grant
from schemas.http.common import PAGE_ITEMS_MAX
from schemas.http.credits import AllowanceAnswer, BalanceAnswer, PromotionalAnswer, TopUpAnswer
from schemas.http.projects import ItemInfo, ItemList, KeyInfo, ProjectInfo
from schemas.times import utc
from streams.core.booking import available, format_credits, held
from streams.core.grants import GRANT_KINDS
from streams.core.items import metered, unpaid
from streams.core.ledger import settled
from streams.core.limits import limits_of
from streams.core.price_list import Prices
from streams.core.spending import empty_at_ms, spent_in_24_hours
from streams.kafka.clock import now_ms

# Later than any end of a grant.
_BEFORE_ALL_BUNDLES_MS = 1 << 52


def item_list(account: Account, prices: Prices, now_ms: int) -> ItemList:
    """The recurring line items of an account, as GET /v1/items shows them."""
    book = prices.at(now_ms)
    shown = []
    for item in account.items:
        unit_hours, amount = metered(item, prices, now_ms)
        shown.append(
            ItemInfo(
                item=item.operation,
                quantity=item.quantity,
                credits_an_hour=format_credits(book.hourly.get(item.operation, 0)),
                unit_hours=unit_hours,
                credits=format_credits(amount),
                unpaid=format_credits(unpaid([item])),
            )
        )
    return ItemList(
        project=account.project,
        billed_at=utc(account.month_ends_at_ms) if account.month_ends_at_ms else None,
        items=shown,
    )


def balance_of(
    account: Account,
    environment: str,
    now_ms: int,
    lag_ms: int,
    limit: int = PAGE_ITEMS_MAX,
    cursor: str | None = None,
    *,
    is_now: bool = False,
) -> BalanceAnswer:
    """The balance of one environment's budget, as GET /v1/balance shows it: with at most `limit` of its grants, those
    after `cursor`. Whatever the page, what it says to remain of each kind of grant sums to `available` and `held`,
    and what is held of each to `held`. Where the account `is_now`, it says how many holds are open, what the
    last 24 hours spent and how long the rest lasts. Raises Rejection for a cursor that no page gave."""
    grants = [grant for grant in account.grants if grant.environment == environment]
    of_kind = {kind: [grant for grant in grants if grant.kind == kind] for kind in GRANT_KINDS}
    allowances, promotional, bundles = (of_kind[kind] for kind in GRANT_KINDS)
    left, spent = available(account, environment), None
    if is_now:
        spent = spent_in_24_hours(account, environment, now_ms)
    empty_ms = None if spent is None else empty_at_ms(left, spent, now_ms)
    page, next_cursor = page_of([*promotional, *bundles], _place, limit, cursor)
    return BalanceAnswer(
        project=account.project,
        plan=account.plan,
        environment=environment,
        available=format_credits(left),
        held=format_credits(held(account, environment)),
        allowance=_allowance(account, allowances, now_ms),
        promotional=[
            PromotionalAnswer(
                grant_id=grant.id,
                granted=format_credits(grant.granted),
                remaining=format_credits(grant.remaining),
                granted_at=utc(grant.granted_at_ms),
                expires_at=utc(grant.expires_at_ms),
            )
            for grant in page
            if grant.kind == "promotional"
        ],
        promotional_count=len(promotional),
        promotional_remaining=_remaining(promotional),
        promotional_held=_held(promotional),
        top_ups=[
            TopUpAnswer(
                grant_id=grant.id,
                granted=format_credits(grant.granted),
                remaining=format_credits(grant.remaining),
                granted_at=utc(grant.granted_at_ms),
            )
            for grant in page
            if grant.kind == "top_up"
        ],
        top_ups_count=len(bundles),
        top_ups_remaining=_remaining(bundles),
        top_ups_held=_held(bundles),
        holds_count=sum(hold.environment == environment for hold in account.holds) if is_now else None,
        spent_24h=None if spent is None else format_credits(spent),
        empty_at=None if empty_ms is None else utc(empty_ms),
        renews_at=utc(account.renews_at_ms),
        next_cursor=next_cursor,
        as_of=utc(now_ms - max(lag_ms, 0)),
        lag_ms=lag_ms,
        offset=account.last_offset,
    )


def _allowance(account: Account, allowances: list[Grant], now_ms: int) -> AllowanceAnswer | None:
    """The allowance of a budget, where it has any. Of an ended month it is what jobs hold, which was granted then."""
    if not allowances:
        return None
    granted = sum(grant.granted if grant.expires_at_ms > now_ms else grant.remaining for grant in allowances)
    return AllowanceAnswer(
        granted=format_credits(granted),
        remaining=_remaining(allowances),
        held=_held(allowances),
        renews_at=utc(account.renews_at_ms),
    )


def _place(grant: Grant) -> Place:
    """The place of a grant in the pages of a balance: promotional ones by their end, then bundles by their age."""
    if grant.kind == "promotional":
        return grant.expires_at_ms - _BEFORE_ALL_BUNDLES_MS, grant.id
    return grant.granted_at_ms, grant.id


def _remaining(grants: Iterable[Grant]) -> str:
    return format_credits(sum(grant.remaining for grant in grants))


def _held(grants: Iterable[Grant]) -> str:
    return format_credits(sum(grant.held for grant in grants))


def settled_account(services: Services, project: str) -> Account:
    """The project's account as it is now, with all that time has brought by now (a renewal, an expiry) applied.

    The owner books such things when the account is next touched; answers count them in before that. Raises Rejection
    `unknown_project` or `not_ready`.
    """
    return settled(account_for(services, project), now_ms(), services.accounts.prices())


def project_now(services: Services, project: str) -> ProjectInfo:
    """The project as answers show it, as of now. Raises Rejection `unknown_project` or `not_ready`."""
    return _project_info(settled_account(services, project))


def _project_info(account: Account) -> ProjectInfo:
    """The project of an account, as answers show it: its keys are shown without their hashes."""
    limits = limits_of(account)
    return ProjectInfo(
        project=account.project,
        name=account.name,
        plan=account.plan,
        requests_per_minute=limits.requests_per_minute,
        burst=limits.burst,
        cost_ceiling=format_credits(limits.cost_ceiling),
        raised_until=min((utc(each.ends_at_ms) for each in account.raises if each.is_on), default=None),
        signed_up_at=utc(account.signed_up_at_ms),
        renews_at=utc(account.renews_at_ms),
        next_plan=account.next_plan or None,
        good_standing=account.is_in_good_standing,
        closed_at=utc(account.closed_at_ms) if account.closed_at_ms else None,
        badge_required=account.plan == "free",
        badge_shown=account.plan == "free" or not account.badge_off,
        billing_account=account.billing_account or None,
        keys=[key_info(key) for key in account.keys],
    )


def key_info(key: ApiKey) -> KeyInfo:
    """The key as answers show it, without its hash."""
    return KeyInfo(
        key_id=key.id,
        name=key.name,
        environment=key.environment,
        scopes=key.scopes,
        created_at=utc(key.created_at_ms),
        revoked_at=utc(key.revoked_at_ms) if key.revoked_at_ms else None,
        ends_at=utc(key.ends_at_ms) if key.ends_at_ms else None,
    )
