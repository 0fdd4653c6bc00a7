"""Charts: from numbers to the places of what the server draws in SVG. Heights are whole pixels, widths are percent of
the plot, so that text keeps its size on any screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

# The colours of tokens.css: the last is for all others.
SERIES_MAX = 5
# A narrow space that does not break: SVG has no margins within a text.
THIN = "\N{NARROW NO-BREAK SPACE}"
_TICKS_MAX = 4
_LABELS_MAX, _LABELS_NARROW_MAX = 8, 5
# More bars than these stand side by side, with no space between.
DENSE_ABOVE = 100
_SHARE_OF_SLOT = 0.66
# The widest digits of 11 px, and the space beside the plot.
_DIGIT_PX, _AXIS_MARGIN_PX = 6.6, 10


@dataclass(frozen=True, slots=True)
class ChartColumn:
    """A column of a chart, to be drawn: a value for each series, the lowest first, and, if any, the sum of the time
    before. `label` stands under it, `name` in what it says when pointed at; `href` is where a click leads."""

    label: str
    name: str
    values: Sequence[int]
    before: int | None = None
    href: str = ""

    @property
    def total(self) -> int:
        """The sum of its values, as drawn: what is below 0 is no part of it."""
        return sum(max(0, value) for value in self.values)


@dataclass(frozen=True, slots=True)
class BarPiece:
    """A piece of a drawn bar, in pixels from the top. `series` counts from 1."""

    y: int
    height: int
    series: int


@dataclass(frozen=True, slots=True)
class DrawnBar:
    """A drawn bar: `x` and `width` of it, and of the `slot` that is its own, in percent of the plot. A label that
    `is_spare` is left out where there is little room."""

    x: str
    width: str
    slot_x: str
    slot_width: str
    middle: str
    pieces: list[BarPiece]
    label: str
    is_spare: bool
    title: str
    href: str
    before_y: int | None


@dataclass(frozen=True, slots=True)
class AxisTick:
    """A tick of the axis, in pixels from the top, with what it says."""

    y: int
    label: str


@dataclass(frozen=True, slots=True)
class BarChart:
    """A chart of bars, `height` pixels from its top to the axis. `axis_px` is the room that the ticks' labels take."""

    bars: list[DrawnBar]
    ticks: list[AxisTick]
    height: int
    axis_px: int
    is_dense: bool


def bar_chart(
    columns: Sequence[ChartColumn],
    series: Sequence[str],
    shown: Callable[[int], str],
    unit: str,
    height: int = 170,
) -> BarChart:
    """Lay out stacked bars, whose pieces sum to their bar to the pixel. `shown` writes a value, `unit` names it. A bar
    that is not 0 can be seen, however small it is beside the others."""
    highest = max((max(column.total, column.before or 0) for column in columns), default=0)
    steps = tick_values(highest)
    top = steps[-1]

    def pixels(value: int) -> int:
        return max(1, (value * height + top // 2) // top) if value > 0 else 0

    ticks = [AxisTick(height - pixels(value), thin(shown(value))) for value in steps]
    labelled = [number for number, column in enumerate(columns) if column.label]
    shown_labels = labelled[:: -(-len(labelled) // _LABELS_MAX) or 1]
    share = _SHARE_OF_SLOT if len(columns) <= DENSE_ABOVE else 1
    bars = []
    for number, column in enumerate(columns):
        slot, left = 100 / len(columns), 100 * number / len(columns)
        inset = slot * (1 - share) / 2
        bars.append(
            DrawnBar(
                x=_percent(left + inset),
                width=_percent(slot - 2 * inset),
                slot_x=_percent(left),
                slot_width=_percent(slot),
                middle=_percent(left + slot / 2),
                pieces=_pieces(column.values, pixels, height),
                label=column.label if number in shown_labels else "",
                is_spare=number in shown_labels[1::2] and len(shown_labels) > _LABELS_NARROW_MAX,
                title=_title(column, series, shown, unit),
                href=column.href,
                before_y=height - pixels(column.before) if column.before else None,
            )
        )
    widest = max((len(tick.label) for tick in ticks), default=1)
    return BarChart(bars, ticks, height, int(widest * _DIGIT_PX) + _AXIS_MARGIN_PX, len(columns) > DENSE_ABOVE)


def tick_values(highest: int) -> list[int]:
    """The values of an axis from 0 to at least `highest`: whole steps of 1, 2 or 5 of some power of ten, four at most.
    The axis of nothing has one step."""
    step = nice_step(-(-highest // _TICKS_MAX))
    count = max(1, -(-highest // step))
    return [step * number for number in range(count + 1)]


def nice_step(least: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, … that is not below `least`."""
    power = 1
    while True:
        for digit in (1, 2, 5):
            if digit * power >= least:
                return digit * power
        power *= 10


def shares(values: Iterable[int]) -> list[tuple[str, str]]:
    """The places of parts in a whole as (x, width), in percent, side by side; together they are the whole, where it is
    above 0."""
    parts = [max(0, value) for value in values]
    whole = sum(parts)
    edges = [0] + [10_000 * edge // whole if whole else 0 for edge in accumulate(parts)]
    return [
        (_percent(begin / 100), _percent((end - begin) / 100)) for begin, end in zip(edges, edges[1:], strict=False)
    ]


def thin(text: str) -> str:
    """A number's text with its whole digits in groups of three, for a text of SVG."""
    sign, text = ("-", text[1:]) if text.startswith("-") else ("", text)
    whole, dot, fraction = text.partition(".")
    return f"{sign}{int(whole):,}".replace(",", THIN) + dot + fraction if whole.isdigit() else f"{sign}{text}"


def _pieces(values: Sequence[int], pixels: Callable[[int], int], height: int) -> list[BarPiece]:
    """The pieces of a bar from the axis up. Edges are rounded, not heights, so that they sum to the bar."""
    pieces, below = [], 0
    for series, edge in enumerate(accumulate(max(0, value) for value in values), start=1):
        upper = pixels(edge)
        if upper > below:
            pieces.append(BarPiece(height - upper, upper - below, min(series, SERIES_MAX)))
        below = upper
    return pieces


def _title(column: ChartColumn, series: Sequence[str], shown: Callable[[int], str], unit: str) -> str:
    lines = [f"{column.name}: {thin(shown(sum(column.values)))} {unit}"]
    named = [(name, value) for name, value in zip(series, column.values, strict=True) if value]
    if len(series) > 1:
        lines += [f"{name} {thin(shown(value))}" for name, value in reversed(named)]
    if column.before is not None:
        lines.append(f"the time before {thin(shown(column.before))}")
    return "\n".join(lines)


def _percent(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") + "%"
