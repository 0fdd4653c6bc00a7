"""The words of the core's rejections: whichever test brings one about, it is one that `rejections.txt` lists.

There a line is `module code field: detail`, and `…` stands for whatever else the detail or the field names.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.problems import CODES, Rejection

LISTED = Path(__file__).parent / "rejections.txt"


class Listed:
    """The rejections that are listed, and those that came about and are not."""

    def __init__(self) -> None:
        self.unlisted: list[str] = []
        self._patterns: dict[str, list[re.Pattern[str]]] = defaultdict(list)
        for line in LISTED.read_text().splitlines():
            pattern = ".*".join(re.escape(part) for part in line.split("…"))
            self._patterns[line.partition(" ")[0]].append(re.compile(pattern, re.DOTALL))

    def look_at(self, module: str, rejection: Rejection) -> None:
        line = f"{module} {rejection.code} {rejection.field}: {rejection.detail}"
        is_listed = any(pattern.fullmatch(line) for pattern in self._patterns[module])
        if not is_listed or rejection.code not in CODES:
            self.unlisted.append(line)


@pytest.fixture(scope="session")
def listed() -> Iterator[Listed]:
    found = Listed()
    begin = Rejection.__init__

    def noted(self: Rejection, code: str, detail: str, field: str | None = None) -> None:
        begin(self, code, detail, field)
        maker = sys._getframe(1).f_globals.get("__name__", "")
        if maker.startswith("streams.core."):
            found.look_at(maker.removeprefix("streams.core."), self)

    with pytest.MonkeyPatch.context() as here:
        here.setattr(Rejection, "__init__", noted)
        yield found


@pytest.fixture(autouse=True)
def rejections_are_listed(listed: Listed) -> Iterator[None]:
    listed.unlisted.clear()
    yield
    assert not listed.unlisted, f"{LISTED.name} does not list: {listed.unlisted[:3]}"
