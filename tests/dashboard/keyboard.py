"""A page by keyboard alone: Tab comes to all that can be used, in the order of reading, and one sees where one is."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from playwright.sync_api import Page

_TABS_MAX = 600
# All that a reader can use and see, in the order of the page. Of a group of radio buttons Tab comes to one. How each
# looks is noted, to be compared with how it looks with the focus.
_NOTE_USABLE = """
() => {
  const all = "a[href], button, input, select, textarea, summary, [tabindex], [contenteditable]";
  const look = (each) => {
    const style = getComputedStyle(each);
    // An outline of no style has a width all the same.
    const outline = style.outlineStyle === "none" ? "" : style.outlineWidth;
    return [outline, style.boxShadow, style.borderColor, style.backgroundColor,
            style.textDecorationLine].join();
  };
  const groups = new Set();
  const usable = [...document.querySelectorAll(all)].filter((each) => {
    if (each.disabled || each.tabIndex < 0 || each.type === "hidden") return false;
    if (!each.checkVisibility({visibilityProperty: true})) return false;
    if (each.type !== "radio") return true;
    const group = `${each.form ? [...document.forms].indexOf(each.form) : ""} ${each.name}`;
    const chosen = document.querySelector(`input[type="radio"][name="${CSS.escape(each.name)}"]:checked`);
    if (groups.has(group) || (chosen && chosen !== each && chosen.form === each.form)) return false;
    groups.add(group);
    return true;
  });
  document.activeElement?.blur();
  window.usable = usable;
  window.looks = usable.map(look);
  window.lookOf = look;
  return usable.map((each) => each.outerHTML.slice(0, 120));
}
"""
_WHERE = """
() => {
  const here = document.activeElement;
  if (!here || here === document.body || here === document.documentElement) return null;
  const at = window.usable.indexOf(here);
  const box = here.getBoundingClientRect();
  const isSeen = box.width > 0 && box.height > 0 && box.bottom > 0 && box.right > 0 &&
    box.top < innerHeight && box.left < innerWidth;
  return {at, isSeen, hasRing: at >= 0 && window.lookOf(here) !== window.looks[at],
          html: here.outerHTML.slice(0, 120)};
}
"""


def faults_of_tabbing(page: Page) -> list[str]:
    """Press Tab from the beginning of a page to its end; gives what is wrong on the way."""
    usable: list[str] = page.evaluate(_NOTE_USABLE)
    faults: list[str] = []
    reached: list[int] = []
    rounds = 0
    for _ in range(_TABS_MAX):
        page.keyboard.press("Tab")
        where: dict[str, Any] | None = page.evaluate(_WHERE)
        if where is None:
            # The end of the page. It did not begin at the top where the page itself had put the focus somewhere.
            rounds += 1
            if rounds == 2:
                break
            continue
        if where["at"] >= 0 and reached[-1:] == [where["at"]]:
            # A date has a day, a month and a year, each a stop of its own.
            continue
        if where["at"] in reached:
            break
        if where["at"] < 0:
            faults.append(f"Tab came to what nobody can use: {where['html']}")
            continue
        reached.append(where["at"])
        faults += [f"out of sight: {where['html']}"] * (not where["isSeen"])
        faults += [f"no sign of the focus: {where['html']}"] * (not where["hasRing"])
    faults += [f"Tab never came to {usable[each]}" for each in range(len(usable)) if each not in reached]
    if sum(later < earlier for earlier, later in pairwise(reached)) > 1:
        faults.append(f"Tab goes to and fro: {reached}")
    return faults
