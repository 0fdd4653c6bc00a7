"""Notices and the rules for them, as the HTTP service takes and shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from schemas.commands import RULES_MAX
from schemas.http.common import Credits, EnvironmentName, at_most
from schemas.notices import NoticeType


class RuleThreshold(BaseModel, extra="forbid"):
    """A threshold at which a project is told of its available credits: one of the two."""

    percent: int | None = Field(None, ge=1, le=100, description="Of what the plan grants a month")
    credits: Credits | None = None


class NewNoticeRules(BaseModel, extra="forbid"):
    """An environment's own rules, in place of those that it has. One that is crossed already waits until it is crossed
    again."""

    environment: EnvironmentName = "production"
    rules: list[RuleThreshold] = Field(max_length=RULES_MAX)


class NoticeRuleInfo(BaseModel):
    """A rule: a project is told when no more than `threshold` credits are available. Of a percentage where the plan
    grants nothing, as in preview, that is 0, and nothing is told."""

    id: str
    environment: EnvironmentName
    percent: int | None = None
    threshold: Credits
    is_default: bool = Field(description="Every project has it")
    is_crossed: bool = Field(description="No more than that is available, or never was: it waits for more")


class NoticeRuleList(BaseModel):
    """The rules of a project by environment, the highest threshold first."""

    project: str
    rules: list[NoticeRuleInfo] = at_most(2 * (RULES_MAX + 2))


class NoticeInfo(BaseModel):
    """A notice that a project was, or could have been, told of."""

    id: str
    type: NoticeType
    project: str
    environment: str
    at: datetime
    data: dict[str, Any]


class NoticePage(BaseModel):
    """A page of notices, the newest first; `next_cursor` gives the next page, and is null at the end."""

    notices: list[NoticeInfo] = at_most(1_000)
    next_cursor: str | None
