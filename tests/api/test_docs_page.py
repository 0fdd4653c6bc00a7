"""The page of the API's documents: a browser shows it whole, with nothing but this machine to ask."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.browser import run_browser
from tests.calls import Operator


def test_a_browser_without_the_internet_shows_every_call(operator: Operator, chromium: str, tmp_path: Path) -> None:
    looked = run_browser(
        chromium,
        tmp_path,
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--enable-logging=stderr",
        "--virtual-time-budget=30000",
        "--dump-dom",
        str(operator.http.base_url.join("/docs")),
    )
    described = operator.http.get("/openapi.json").json()["paths"]
    shown = set(re.findall(r'data-path="([^"]+)"', looked.stdout))
    assert shown == set(described)
    console = [line for line in looked.stderr.splitlines() if "CONSOLE" in line]
    assert console == []


def test_nothing_of_the_page_comes_from_elsewhere(operator: Operator) -> None:
    page = operator.http.get("/docs")
    assert "default-src 'none'; script-src 'self';" in page.headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(named) == 4 and all(each.startswith("./docs/") for each in named)
    for each in named:
        found = operator.http.get(each.removeprefix("."))
        assert found.status_code == 200 and found.content, each
        assert found.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["main.py", "..%2fmain.py", "%2e%2e/main.py", "x" * 65])
def test_there_is_no_other_file(operator: Operator, name: str) -> None:
    assert operator.http.get(f"/docs/{name}").status_code in (404, 422)
    assert operator.http.get("/redoc").status_code == 404
