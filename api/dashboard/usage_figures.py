"""Usage as charts and tables show it, made of the API's answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.dashboard.charts import SERIES_MAX, BarChart, ChartColumn, bar_chart
from api.dashboard.figures import microcredits
from api.dashboard.spans import ShownPeriod
from streams.core.booking import format_credits

# So many groups have a colour of their own; all others share the last.
COLOURED_MAX = SERIES_MAX - 1
OTHERS = "all others"


@dataclass(frozen=True, slots=True)
class PeriodFigures:
    """The figures of a period beside its bar: credits as decimal strings."""

    period: ShownPeriod
    href: str
    uses: int
    credits: str
    previous_uses: int | None = None
    previous_credits: str | None = None


@dataclass(frozen=True, slots=True)
class UsageChart:
    """A chart of usage with its legend, (name, number of the colour), and the figures of each period."""

    chart: BarChart
    legend: list[tuple[str, int]]
    periods: list[PeriodFigures]
    is_empty: bool


def group_name(group: Mapping[str, str], names: Sequence[str], *, is_other: bool) -> str:
    """The name of a group of usage: its values, a dash for one that there is none of."""
    return OTHERS if is_other else " · ".join(group[name] or "–" for name in names)


def usage_chart(
    report: Mapping[str, Any],
    periods: Sequence[ShownPeriod],
    measure: str,
    link: Callable[[ShownPeriod], str] = lambda period: "",
    height: int = 170,
    coloured: Mapping[str, int] | None = None,
) -> UsageChart:
    """The chart of a usage report by period, in credits or uses (`measure`): the groups with most lowest. `coloured`
    gives groups their colours by name, where these mean something."""
    names = [name for name in report["group_by"] if name != "period"]
    sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    totals: dict[str, int] = defaultdict(int)
    others: set[str] = set()
    before: dict[str, int] = defaultdict(int)
    figures: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for row in report["rows"]:
        period, name = row["group"]["period"], group_name(row["group"], names, is_other=row.get("other", False))
        value = _measured(row, measure)
        sums[period][name] += value
        totals[name] += value
        if row.get("other", False):
            others.add(name)
        of_period = figures[period]
        of_period[0] += row["uses"]
        of_period[1] += microcredits(row["credits"])
        if previous := row.get("previous"):
            before[period] += _measured(previous, measure)
            of_period[2] += previous["uses"]
            of_period[3] += microcredits(previous["credits"])
    series = sorted(totals, key=lambda name: (name in others, -totals[name], name))
    is_compared = report["previous_from"] is not None
    columns = [
        ChartColumn(
            each.label,
            each.name,
            _coloured([sums[each.key][name] for name in series]),
            before[each.key] if is_compared else None,
            link(each),
        )
        for each in periods
    ]
    named = series if len(series) <= SERIES_MAX else [*series[:COLOURED_MAX], OTHERS]
    shown, unit = (format_credits, "credits") if measure == "credits" else (str, "uses")
    chart = bar_chart(columns, named, shown, unit, height)
    # All others are grey, however few the groups beside them.
    colours = [
        SERIES_MAX if name in others or name == OTHERS else (coloured or {}).get(name, number)
        for number, name in enumerate(named, 1)
    ]
    chart = _recoloured(chart, colours)
    rows = [_figures(each, link(each), figures[each.key], is_compared=is_compared) for each in periods]
    return UsageChart(chart, list(zip(named, colours, strict=True)), rows, not report["rows"])


def _measured(row: Mapping[str, Any], measure: str) -> int:
    return microcredits(row["credits"]) if measure == "credits" else int(row["uses"])


def _coloured(values: list[int]) -> list[int]:
    """The values of the series that have a colour, and of all others together."""
    return values if len(values) <= SERIES_MAX else [*values[:COLOURED_MAX], sum(values[COLOURED_MAX:])]


def _recoloured(chart: BarChart, colours: Sequence[int]) -> BarChart:
    for bar in chart.bars:
        for number, piece in enumerate(bar.pieces):
            bar.pieces[number] = type(piece)(piece.y, piece.height, colours[piece.series - 1])
    return chart


def _figures(period: ShownPeriod, href: str, found: list[int], *, is_compared: bool) -> PeriodFigures:
    uses, credits, previous_uses, previous = found
    if not is_compared:
        return PeriodFigures(period, href, uses, format_credits(credits))
    return PeriodFigures(period, href, uses, format_credits(credits), previous_uses, format_credits(previous))
