"""Charts that the server draws: what is seen is what the numbers are, to the pixel, whatever the numbers are."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.dashboard.charts import (
    DENSE_ABOVE,
    SERIES_MAX,
    THIN,
    BarChart,
    ChartColumn,
    bar_chart,
    nice_step,
    shares,
    thin,
    tick_values,
)
from streams.core.booking import format_credits

HEIGHT = 170
values = st.one_of(st.just(0), st.integers(0, 20), st.integers(0, 10**18))
columns = st.lists(st.lists(values, min_size=3, max_size=3), max_size=30)


def chart_of(sets: list[list[int]], names: int = 3) -> BarChart:
    given = [ChartColumn(str(number), f"day {number}", each) for number, each in enumerate(sets)]
    return bar_chart(given, [f"s{number}" for number in range(names)], str, "uses", HEIGHT)


@given(columns)
def test_the_pieces_of_a_bar_sum_to_it_to_the_pixel_and_leave_no_gap(sets: list[list[int]]) -> None:
    chart = chart_of(sets)
    top = max((tick.label for tick in chart.ticks), key=lambda label: int(label.replace(THIN, "")))
    highest = int(top.replace(THIN, ""))
    for each, bar in zip(sets, chart.bars, strict=True):
        exact, drawn = Fraction(sum(each) * HEIGHT, highest), sum(piece.height for piece in bar.pieces)
        assert abs(drawn - exact) <= Fraction(1, 2) or (drawn == 1 and 0 < exact < 1)
        below = HEIGHT
        for piece in bar.pieces:
            assert piece.y + piece.height == below and piece.height > 0
            below = piece.y
        assert below >= 0, "no bar is higher than the chart"


@given(columns)
def test_a_bar_that_is_not_0_is_seen_and_one_that_is_0_is_not(sets: list[list[int]]) -> None:
    for each, bar in zip(sets, chart_of(sets).bars, strict=True):
        assert bool(bar.pieces) == bool(sum(each))


def test_one_huge_value_beside_small_ones_leaves_these_a_pixel() -> None:
    chart = chart_of([[1, 0, 0], [10**18, 0, 0], [0, 0, 0], [0, 3, 0]])
    assert [sum(piece.height for piece in bar.pieces) for bar in chart.bars] == [1, HEIGHT, 0, 1]
    assert chart.axis_px > 6 * len(f"{10**18:,}"), "the axis has room for its longest label"


def test_nothing_at_all_is_an_axis_without_bars() -> None:
    empty = chart_of([])
    assert (empty.bars, [tick.y for tick in empty.ticks]) == ([], [HEIGHT, 0])
    flat = chart_of([[0, 0, 0]] * 4)
    assert all(not bar.pieces for bar in flat.bars)


def test_what_is_below_0_is_not_drawn_and_is_told() -> None:
    chart = bar_chart([ChartColumn("a", "Monday", [-5, 3])], ["x", "y"], str, "uses", HEIGHT)
    (bar,) = chart.bars
    assert [piece.series for piece in bar.pieces] == [2]
    assert bar.title == "Monday: -2 uses\ny 3\nx -5"


@pytest.mark.parametrize("count", [1, 7, 30, 100, 101, 400])
def test_any_number_of_bars_fills_the_plot_side_by_side_with_few_labels(count: int) -> None:
    chart = chart_of([[1, 2, 3]] * count)
    ends = [float(bar.slot_x[:-1]) + float(bar.slot_width[:-1]) for bar in chart.bars]
    assert abs(ends[-1] - 100) < 0.01
    for bar, end in zip(chart.bars, ends, strict=True):
        x, width = float(bar.x[:-1]), float(bar.width[:-1])
        assert float(bar.slot_x[:-1]) <= x and x + width <= end + 0.002 and width > 0.1
    told = [bar for bar in chart.bars if bar.label]
    assert 1 <= len(told) <= 8 and sum(not bar.is_spare for bar in told) <= 5
    assert chart.is_dense == (count > DENSE_ABOVE)


def test_more_series_than_colours_share_the_last() -> None:
    chart = bar_chart([ChartColumn("", "now", [1] * 8)], list("abcdefgh"), str, "uses", 80)
    assert [piece.series for piece in chart.bars[0].pieces] == [1, 2, 3, 4, *[SERIES_MAX] * 4]


def test_the_time_before_is_part_of_the_axis_and_of_what_a_bar_says() -> None:
    (bar,) = bar_chart([ChartColumn("a", "Monday", [5], before=50)], ["x"], str, "uses", 100).bars
    assert (bar.before_y, bar.pieces[0].height) == (17, 8), "of 60, the axis' highest"
    assert bar.title == "Monday: 5 uses\nthe time before 50"
    (bar,) = bar_chart([ChartColumn("a", "Monday", [5], before=0)], ["x"], str, "uses", 100).bars
    assert bar.before_y is None, "no mark on the axis for nothing"


@given(st.integers(0, 10**20))
def test_an_axis_has_few_whole_steps_and_reaches_the_highest(highest: int) -> None:
    steps = tick_values(highest)
    assert steps[0] == 0 and steps[-1] >= highest and 2 <= len(steps) <= 5
    assert len({later - step for step, later in zip(steps, steps[1:], strict=False)}) == 1
    assert str(steps[1]).rstrip("0") in {"1", "2", "5"}
    assert highest == 0 or steps[-2] < highest, "no step of it is empty"


def test_ticks_are_told_whole_with_separators() -> None:
    assert nice_step(0) == 1 and nice_step(501) == 1000
    told = [thin(format_credits(each)) for each in tick_values(60_000 * 1_000_000)]
    assert told == ["0", f"20{THIN}000", f"40{THIN}000", f"60{THIN}000"]
    assert thin("-1234567.02") == f"-1{THIN}234{THIN}567.02"
    assert [thin(format_credits(each)) for each in tick_values(30_000)] == ["0", "0.01", "0.02", "0.03"]


@given(st.lists(st.integers(0, 10**15), max_size=6))
def test_the_parts_of_a_bar_are_side_by_side_and_fill_it(parts: list[int]) -> None:
    placed = shares(parts)
    at = 0.0
    for x, width in placed:
        assert abs(float(x[:-1]) - at) < 1e-6
        at = float(x[:-1]) + float(width[:-1])
    assert len(placed) == len(parts) and (not sum(parts) or abs(at - 100) < 1e-6)


def test_parts_have_their_shares() -> None:
    assert shares([1, 0, 3]) == [("0%", "25%"), ("25%", "0%"), ("25%", "75%")]
    assert shares([0, 0]) == [("0%", "0%"), ("0%", "0%")]
    assert shares([-5, 5]) == [("0%", "0%"), ("0%", "100%")]
