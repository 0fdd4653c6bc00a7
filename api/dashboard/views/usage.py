"""Usage of a project: by time and by up to two groups, beside the time before, as a chart, as tables, as a file."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Any

from fastapi import APIRouter
from markupsafe import Markup
from starlette.responses import Response

from api.dashboard.asking import ShownProblem
from api.dashboard.figures import credits_sum, microcredits, shown_time
from api.dashboard.spans import (
    COARSER,
    FINER,
    PERIODS_MAX,
    PRESETS,
    ShownPeriod,
    granularity_for,
    periods_about,
    periods_in,
    preset_begin,
)
from api.dashboard.usage_figures import COLOURED_MAX, OTHERS, usage_chart
from api.dashboard.view import PageRoute, ProjectViewDep, View
from api.groups import groups_text
from schemas.problems import Rejection
from streams.history.periods import GRANULARITIES, zone_named

router = APIRouter(include_in_schema=False, route_class=PageRoute)

_GROUPS = ("operation", "customer_id", "environment", "outcome")
_OUTCOMES = ("charged", "refused", "limited")
_TOPS = (5, 10, 25, 100)
_DEFAULT_RANGE = "7d"
# More bars than this are too narrow to tell apart: where scripts run, a line that can be looked into stands for them.
BARS_MAX = 62
# Zones to choose from; any other can be typed.
ZONES = (
    "UTC", "Africa/Cairo", "Africa/Johannesburg", "Africa/Lagos", "America/Argentina/Buenos_Aires", "America/Chicago",
    "America/Denver", "America/Los_Angeles", "America/Mexico_City", "America/New_York", "America/Sao_Paulo",
    "America/Toronto", "Asia/Dubai", "Asia/Hong_Kong", "Asia/Jakarta", "Asia/Karachi", "Asia/Kolkata", "Asia/Seoul",
    "Asia/Shanghai", "Asia/Singapore", "Asia/Tokyo", "Australia/Sydney", "Europe/Berlin", "Europe/Istanbul",
    "Europe/Kyiv", "Europe/London", "Europe/Madrid", "Europe/Paris", "Pacific/Auckland",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AskedUsage:
    """A question for usage: the fields of its form, as its address has them, and what follows from them.
    `since` and `until` are None where they can't be read; the API says then what is wrong with them."""

    fields: Mapping[str, str]
    zone_name: str
    groups: list[str]
    since: datetime | None
    until: datetime | None
    granularity: str
    measure: str
    preset: str
    query: dict[str, Any] = field(default_factory=dict)


@router.get("/usage")
async def usage(view: ProjectViewDep) -> Response:
    """Show the form of a question for usage, and its figures."""
    asked = asked_usage(view)
    address = view.url(None, environment=_environment(view))
    parts = await view.parts(figures=address.replace("/dashboard/usage", "/dashboard/usage/figures", 1))
    return view.page(
        "usage.html", asked=asked, presets=PRESETS, granularities=GRANULARITIES, group_names=_GROUPS,
        outcomes=_OUTCOMES, tops=_TOPS, zones=ZONES, parts=parts, links=_Links(view),
    )  # fmt: skip


@router.get("/usage/figures")
async def usage_figures(view: ProjectViewDep) -> Response:
    """Show the figures of a question for usage."""
    asked = asked_usage(view)
    links = _Links(view)
    if (half := _half_filter(asked)) is not None:
        return _too_much(view, asked, ShownProblem(half.status, half.code, "Invalid request", half.detail))
    if asked.since is not None and asked.until is not None:
        count = periods_about(asked.granularity, asked.since, asked.until)
        if count > PERIODS_MAX:
            what = f"{count} periods are more than one can look at: {PERIODS_MAX} at most"
            return _too_much(view, asked, ShownProblem(422, "too_much_history", "Too much at once", what))
    coloured = asked.query | {"top": COLOURED_MAX, "granularity": asked.granularity}
    by_period, by_group = await asyncio.gather(
        view.get("/v1/usage", **coloured), view.get("/v1/usage", **asked.query | {"top": asked.fields["top"]})
    )
    for each in (by_period, by_group):
        if each.problem is not None:
            return _too_much(view, asked, each.problem)
    report = by_period.data
    since, until = datetime.fromisoformat(report["from"]), datetime.fromisoformat(report["to"])
    now = datetime.now(UTC)
    zone = zone_named(asked.zone_name)
    periods = periods_in(asked.granularity, since, min(until, max(now, since)), zone)

    def there(value: Any, how: str = "minute") -> Markup:
        # In the zone that was asked for, as the periods are, whatever the reader's own.
        return shown_time(value, zone, how)

    def link(period: ShownPeriod) -> str:
        return links.finer(asked.granularity, period)

    chart = usage_chart(report, periods, asked.measure, link, height=200)
    return view.fragment(
        "partials/usage_figures.html",
        usage=chart,
        asked=asked,
        report=report,
        rows=[_group_row(row, asked, links) for row in by_group.data["rows"]],
        sums=_sums(by_group.data["rows"]),
        links=links,
        there=there,
        bars_max=BARS_MAX,
    )


@router.get("/usage.csv")
async def usage_csv(view: ProjectViewDep) -> Response:
    """Give the usage that a page shows as a file: of each period and group, all that the API has."""
    asked = asked_usage(view)
    if (half := _half_filter(asked)) is not None:
        raise half
    query = asked.query | {"granularity": asked.granularity, "top": asked.fields["top"]}
    return view.passed_on("/v1/usage", "text/csv", **query)


def asked_usage(view: View) -> AskedUsage:
    """The question of a page, from its address. The API refuses by name whatever of it makes no sense."""
    given = view.query
    names = ("from", "to", "granularity", "group", "group2", "operation", "customer_id", "outcome", "key", "value")
    fields = {name: given.get(name, "").strip()[:512] for name in names}
    fields["tz"] = given.get("tz", "").strip()[:64] or view.session.zone
    fields["top"] = given.get("top", "").strip()[:8] or "10"
    fields["compare"] = "previous" if given.get("compare") else ""
    fields["measure"] = given.get("measure", "")
    fields["environment"] = _environment(view)
    if not fields["group"]:
        fields["group"], fields["group2"] = fields["group2"] or "operation", ""
    groups = [name for name in (fields["group"], fields["group2"]) if name]
    # Whoever names a day means that time, whatever range the form had before.
    preset = given.get("range", "")
    preset = "" if fields["from"] or fields["to"] else preset if preset in PRESETS else _DEFAULT_RANGE
    now = datetime.now(UTC)
    try:
        zone = zone_named(fields["tz"])
    except Rejection:
        zone = view.session.tz
    since = preset_begin(preset, now, zone) if preset else _moment(fields["from"], zone)
    until = _moment(fields["to"], zone) if fields["to"] else now
    granularity = fields["granularity"]
    if granularity not in GRANULARITIES:
        usual = granularity_for(since, until) if since is not None and until is not None else "day"
        granularity = PRESETS[preset][2] if preset else usual
    is_free = fields["outcome"] in ("refused", "limited") or "outcome" in groups
    measure = fields["measure"] if fields["measure"] in ("credits", "uses") else "uses" if is_free else "credits"
    query: dict[str, Any] = {
        "group_by": groups_text(groups),
        "tz": fields["tz"],
        "from": since.isoformat() if preset and since is not None else fields["from"],
        "to": None if preset else fields["to"],
        "compare": fields["compare"] or None,
        **{name: fields[name] or None for name in ("operation", "customer_id", "outcome")},
    }
    if fields["environment"] != "all" and "environment" not in groups:
        query["environment"] = fields["environment"]
    if fields["key"]:
        query[f"metadata.{fields['key']}"] = fields["value"]
    return AskedUsage(fields, zone.key, groups, since, until, granularity, measure, preset, query)


def _half_filter(asked: AskedUsage) -> Rejection | None:
    """Why a filter by metadata has no meaning: it lacks its key or its value. Without it all would be shown as what was
    asked for."""
    key, value = asked.fields["key"], asked.fields["value"]
    if bool(key) == bool(value):
        return None
    if key:
        return Rejection("invalid_request", f"`value` is missing: which value metadata.{key} has", "value")
    return Rejection("invalid_request", f"`key` is missing: which metadata key has the value {value!r}", "key")


def _environment(view: View) -> str:
    return "all" if view.query.get("environment") == "all" and view.sees_both else view.environment


def _moment(text: str, zone: Any) -> datetime | None:
    """A day or a time of a page's address; None where it is neither."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = datetime.combine(at.date(), time(), zone)
    return at.astimezone(UTC) if 1971 < at.year < 2199 else None


class _Links:
    """Links of a page of usage to the same question, changed."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._about = {"environment": _environment(view)}

    def to(self, **changes: str | None) -> str:
        """The address of the page with parameters changed; `since` and `until` stand for `from` and `to`."""
        named = {"since": "from", "until": "to"}
        changed = {named.get(name, name): value for name, value in changes.items()}
        return self._view.url("/dashboard/usage", **self._kept() | self._about | changed)

    def finer(self, granularity: str, period: ShownPeriod) -> str:
        """The address of what a bar stands for, by finer periods; "" where there are none."""
        if granularity not in FINER:
            return ""
        return self.to(range=None, since=period.since, until=period.until, granularity=FINER[granularity])

    def csv(self) -> str:
        """The address of the file."""
        return self._view.url("/dashboard/usage.csv", **self._kept() | self._about)

    def _kept(self) -> dict[str, str]:
        return {name: value for name, value in self._view.query.items() if name not in ("project", "environment")}


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A row of the table of groups: its values with links that look closer, and its figures beside the time before.
    `change_percent` None is where there was nothing before."""

    values: list[tuple[str, str]]
    is_other: bool
    uses: int
    quantity: int
    credits: str
    previous_uses: int | None
    previous_credits: str | None
    change_percent: int | None


def _group_row(row: Mapping[str, Any], asked: AskedUsage, links: _Links) -> GroupRow:
    is_other, previous = row.get("other", False), row.get("previous")
    values = (
        [(OTHERS, "")]
        if is_other
        else [(row["group"][name], _closer(name, row["group"][name], asked, links)) for name in asked.groups]
    )
    change = None
    if previous:
        now, before = (
            (microcredits(row["credits"]), microcredits(previous["credits"]))
            if asked.measure == "credits"
            else (row["uses"], previous["uses"])
        )
        change = (now - before) * 100 // before if before > 0 else None
    return GroupRow(
        values, is_other, row["uses"], row["quantity"], row["credits"],
        previous and previous["uses"], previous and previous["credits"], change,
    )  # fmt: skip


def _closer(name: str, value: str, asked: AskedUsage, links: _Links) -> str:
    """The address that looks at one group alone, by operation, or of one operation, by customer."""
    then = "customer_id" if name == "operation" else "operation"
    if name in ("operation", "customer_id", "outcome") and value:
        return links.to(group=then, group2=None, **{name: value})
    if name == "environment":
        return links.to(group=then, group2=None, environment=value)
    if name.startswith("metadata.") and value and asked.fields["key"] in ("", name.partition(".")[2]):
        return links.to(group=then, group2=None, key=name.partition(".")[2], value=value)
    return ""


def _sums(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums of all groups."""
    previous = [row["previous"] for row in rows if row.get("previous")]
    return {
        "uses": sum(row["uses"] for row in rows),
        "credits": credits_sum(*(row["credits"] for row in rows)),
        "previous_uses": sum(each["uses"] for each in previous),
        "previous_credits": credits_sum(*(each["credits"] for each in previous)),
    }


def _too_much(view: View, asked: AskedUsage, problem: ShownProblem) -> Response:
    """Tell a problem, with links that ask for less where it is too much."""
    links, ways = _Links(view), []
    if problem.code == "too_much_history":
        coarser = COARSER.get(asked.granularity)
        if coarser:
            ways.append((f"by {coarser}", links.to(granularity=coarser)))
        shorter = [name for name in PRESETS if asked.since is None or _is_shorter(name, asked.since)]
        ways += [
            (f"the last {PRESETS[name][0]}", links.to(range=name, since=None, until=None, granularity=None))
            for name in shorter[-2:]
        ]
        if len(asked.groups) > 1:
            ways.append((f"by {asked.groups[0]} alone", links.to(group2=None)))
        if any(name.startswith("metadata.") for name in asked.groups):
            ways.append(("by customer_id", links.to(group="customer_id", group2=None)))
    # A browser writes an answer above 399 to its console; of a part of a page that tells what is wrong it need not.
    status = 200 if "hx-request" in view.request.headers else problem.status
    return view.page("partials/usage_problem.html", status=status, problem=problem, ways=ways)


def _is_shorter(preset: str, since: datetime) -> bool:
    days = PRESETS[preset][1]
    return datetime.now(UTC) - since > timedelta(days=(days or 0) + 1)
