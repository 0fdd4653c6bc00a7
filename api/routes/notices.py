"""Notices: what a project was told of, and the thresholds at which it is told of its available credits."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.dependencies import (
    CallerDep,
    IdempotencyKey,
    ProjectQuery,
    ServicesDep,
    account_for,
    decided,
    environment_for,
    instant,
    problems,
    project_for,
)
from api.instants import check_order
from schemas.accounts import Account
from schemas.commands import SetNoticeRules
from schemas.http.common import EnvironmentName, GivenTime
from schemas.http.notices import (
    NewNoticeRules,
    NoticeInfo,
    NoticePage,
    NoticeRuleInfo,
    NoticeRuleList,
    RuleThreshold,
)
from schemas.notices import NoticeType
from schemas.problems import Rejection
from schemas.times import utc
from streams.clickhouse.client import ClickHouse
from streams.core.booking import available, format_credits, parse_credits
from streams.core.crossings import EXHAUSTED, LOW, LOW_PERCENT, thresholds
from streams.core.ledger import settled
from streams.courier.words import data_of
from streams.history.notices import NoticeQuestion, notice_page
from streams.kafka.clock import now_ms
from streams.kafka.topics import partition_of

router = APIRouter(prefix="/v1", tags=["notices"], responses=problems(401, 403, 404, 409, 422, 503))


@router.get("/notices", response_model=NoticePage)
async def notices(
    services: ServicesDep,
    caller: CallerDep,
    project: ProjectQuery = None,
    environment: EnvironmentName | None = None,
    type: Annotated[NoticeType | None, Query(description="Only notices of this type")] = None,
    since: Annotated[GivenTime | None, Query(alias="from", description="RFC 3339 with a zone")] = None,
    until: Annotated[GivenTime | None, Query(alias="to", description="RFC 3339 with a zone; exclusive")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """List a project's notices, newest first: crossings of its thresholds, expired holds, purchases, changes of plan,
    and price books that were announced since it was opened. A preview key's are those of its own environment, and price
    books. A page may be shorter than `limit`, and have one after it."""
    caller.require("content:read")
    name = project_for(caller, project)
    account = account_for(services, name)
    if type == "webhook.test":
        raise Rejection(
            "invalid_request",
            "A test is no notice of the project's; the deliveries of its endpoint have its attempts",
            "type",
        )
    question = NoticeQuestion(
        project=name,
        environment=environment_for(caller, environment),
        limit=limit,
        cursor=cursor,
        type=type,
        since_ms=None if since is None else _ms_of(since, "from"),
        until_ms=None if until is None else _ms_of(until, "to"),
        partition=partition_of(name, services.settings.partitions),
        opened_at_ms=account.signed_up_at_ms,
    )
    check_order(since, until)
    question.condition()  # refuses a bad cursor before a thread is taken
    return await services.reads.json(caller.name, lambda history: _page(history, question))


@router.get("/notice-rules", response_model=NoticeRuleList)
async def notice_rules(
    services: ServicesDep,
    caller: CallerDep,
    project: ProjectQuery = None,
    environment: EnvironmentName | None = None,
) -> NoticeRuleList:
    """List the thresholds at which a project is told of its available credits: those of every project, and its own."""
    caller.require("content:read")
    account = account_for(services, project_for(caller, project))
    settled(account, now_ms(), services.accounts.prices())
    return _rule_list(account, environment_for(caller, environment))


@router.put("/notice-rules", response_model=NoticeRuleList)
async def set_notice_rules(
    services: ServicesDep,
    caller: CallerDep,
    asked: NewNoticeRules,
    project: ProjectQuery = None,
    idempotency_key: IdempotencyKey = "",
) -> NoticeRuleList:
    """Set an environment's own thresholds, in place of those that it has. Each project is told at 20 percent of what
    its plan grants a month, and when nothing is available, whatever is set here."""
    caller.require("content:write")
    name = project_for(caller, project)
    environment = environment_for(caller, asked.environment) or asked.environment
    command = SetNoticeRules(
        project=name,
        environment=environment,
        rules=[_threshold_of(rule) for rule in asked.rules],
        **services.commands.addressing(idempotency_key, caller.key_id),
    )
    await decided(services, command)
    return _rule_list(account_for(services, name), environment)


def _ms_of(at: datetime, field: str) -> int:
    return round(instant(at, field).timestamp() * 1000)


def _threshold_of(rule: RuleThreshold) -> tuple[bool, int]:
    """(is it in percent, percent or microcredits). Raises Rejection."""
    if (rule.percent is None) == (rule.credits is None):
        raise Rejection("invalid_request", "A rule has either `percent` or `credits`", "rules")
    if rule.percent is not None:
        return True, rule.percent
    assert rule.credits is not None
    return False, parse_credits(rule.credits, "rules")


def _rule_list(account: Account, only: str | None) -> NoticeRuleList:
    percents = {LOW: LOW_PERCENT} | {rule.id: rule.threshold for rule in account.notice_rules if rule.is_percent}
    environments: tuple[EnvironmentName, ...] = ("production", "preview")
    return NoticeRuleList(
        project=account.project,
        rules=[
            NoticeRuleInfo(
                id=rule,
                environment=environment,
                percent=percents.get(rule),
                threshold=format_credits(amount),
                is_default=rule in (LOW, EXHAUSTED),
                is_crossed=available(account, environment) <= amount,
            )
            for environment in environments
            if only in (None, environment)
            for amount, rule in _all_thresholds(account, environment)
        ],
    )


def _all_thresholds(account: Account, environment: str) -> list[tuple[int, str]]:
    """The thresholds of an environment, as `thresholds` has them, and last its own rules that are none now, since they
    are a part of no allowance: whoever sets rules anew needs to know of these too."""
    found = thresholds(account, environment)
    known = {rule for _, rule in found}
    own = [rule.id for rule in account.notice_rules if rule.environment == environment]
    return found + [(0, rule) for rule in own if rule not in known]


def _page(clickhouse: ClickHouse, question: NoticeQuestion) -> NoticePage:
    found, next_cursor = notice_page(clickhouse, question)
    return NoticePage(
        notices=[
            NoticeInfo(
                id=notice.id,
                type=notice.type,
                project=notice.project or question.project,
                environment=notice.environment,
                at=utc(notice.at_ms),
                data=data_of(notice),
            )
            for notice in found
        ],
        next_cursor=next_cursor,
    )
