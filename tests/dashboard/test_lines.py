"""Usage of many periods as a line, drawn by the browser from the table beside it."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.dashboard.conftest import Look


def test_many_periods_are_a_line_once_it_is_asked_for(look: Look) -> None:
    looker = look("key")
    looker.open("/dashboard/usage?range=7d&granularity=hour")
    page = looker.page
    bars, line = page.locator("#usage-figures .chart"), page.locator("#lines canvas")
    expect(bars).to_be_visible()
    expect(line).to_have_count(0)
    button = page.get_by_role("button", name="As a line, to zoom into")
    # It is there too where the figures were ready, and have come with the page.
    expect(button).to_be_visible()
    button.focus()
    page.keyboard.press("Enter")
    expect(line).to_be_visible()
    expect(bars).to_be_hidden()
    # It is drawn with what the table has: somewhere it is of the accent's colour, not all of one.
    painted = line.evaluate(
        "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size"
    )
    assert painted > 20
    assert looker.axe() == []


def test_few_periods_have_bars_alone(look: Look) -> None:
    looker = look("key")
    looker.open("/dashboard/usage?range=7d")
    expect(looker.page.locator("#usage-figures .chart")).to_be_visible()
    expect(looker.page.locator("[data-lines-of]")).to_have_count(0)
