"""Files that others wrote and we ship are those that their manifest names, and pages load no others but ours."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.dashboard.static_files import MEDIA_TYPES, PREFIX, SCRIPT, SHEET, static_files, static_path
from streams.settings import PROJECT_ROOT
from tests.calls import Operator

PAGES = PROJECT_ROOT / "api" / "dashboard"
SHIPPED = PAGES / "static" / "vendor"
OF_TESTS = PROJECT_ROOT / "tests" / "dashboard" / "vendor"
_LICENCES = {"0BSD": "Zero-Clause BSD", "MIT": "MIT", "MPL-2.0": "Mozilla Public License"}


def entries_of(folder: Path) -> list[dict[str, str]]:
    """The files that a folder's manifest lists."""
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["registry"] == "npm"
    found: list[dict[str, str]] = manifest["files"]
    return found


@pytest.mark.parametrize("folder", [SHIPPED, OF_TESTS], ids=["shipped", "of tests"])
def test_each_vendored_file_is_the_one_that_its_manifest_names(folder: Path) -> None:
    entries = entries_of(folder)
    assert {each["file"] for each in entries} == {path.name for path in folder.iterdir()} - {"manifest.json"}
    for each in entries:
        assert set(each) == {"file", "package", "version", "path", "licence", "sha256"}, each
        assert re.fullmatch(r"\d+\.\d+\.\d+", each["version"]), each
        assert sha256((folder / each["file"]).read_bytes()).hexdigest() == each["sha256"], each["file"]


@pytest.mark.parametrize("folder", [SHIPPED, OF_TESTS], ids=["shipped", "of tests"])
def test_each_package_comes_in_one_version_with_its_licence(folder: Path) -> None:
    entries = entries_of(folder)
    assert len({(each["package"], each["version"], each["licence"]) for each in entries}) == len(
        {each["package"] for each in entries}
    )
    for package in {each["package"] for each in entries}:
        licences = [each for each in entries if each["package"] == package and each["path"].startswith("LICENSE")]
        assert licences, package
        text = (folder / licences[0]["file"]).read_text()
        # uPlot's and Pico's begin with the licence's name or grant.
        assert _LICENCES[licences[0]["licence"]] in text or "Permission is hereby granted" in text, package


def test_pages_name_no_file_but_ours() -> None:
    for path in sorted((PAGES / "templates").rglob("*.html")):
        text = path.read_text()
        for found in re.findall(r'(?:src|href|action|hx-get|hx-post|data-src)="([^"]*)"', text):
            assert not re.match(r"(?:[a-z]+:)?//|data:|javascript:", found), (path.name, found)
        assert not re.search(r"\son[a-z]+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", text), path.name
        for name in re.findall(r"static\('([^']+)'\)", text):
            assert static_path(name)


def test_style_sheets_and_our_scripts_load_nothing_from_elsewhere() -> None:
    for name, file in static_files().items():
        text = file.content.decode()
        if name.endswith(".css"):
            loaded = re.findall(r"url\(\s*[\"']?([^)\"']+)|@import\s+[\"']([^\"']+)", text)
            named = [one or other for one, other in loaded]
            assert [each for each in named if not each.startswith("data:") and each not in static_files()] == [], name
    for path in (PAGES / "static").glob("*.js"):
        forbidden = r"https?://|\beval\(|new Function|innerHTML|insertAdjacentHTML|document\.write"
        assert not re.search(forbidden, path.read_text()), path.name


def test_no_icon_of_pico_is_left_which_the_policy_would_block() -> None:
    pico, ours = ((PAGES / "static" / name).read_text() for name in ("vendor/pico.min.css", "meterline.css"))
    with_data = set(re.findall(r"(--pico-icon-[a-z]+):url\(", pico))
    assert with_data and with_data == set(re.findall(r"(--pico-icon-[a-z]+): none", ours))
    # Where Pico uses no variable for an address, it would be loaded all the same.
    assert len(re.findall(r"url\(", pico)) == len(re.findall(r"--pico-icon-[a-z]+:url\(", pico))


def test_a_page_has_one_style_sheet_so_that_none_is_in_force_without_the_others() -> None:
    for path in sorted((PAGES / "templates").rglob("*.html")):
        sheets = re.findall(r'<link rel="stylesheet" href="([^"]*)"', path.read_text())
        assert sheets == ([f"{{{{ static('{SHEET}') }}}}"] if path.name == "base.html" else []), path.name
    assert not {"tokens.css", "meterline.css", "vendor/pico.min.css"} & set(static_files())
    ground, _, ours = static_files()[SHEET].content.decode().partition("@layer pico {")
    assert ground == (PAGES / "static" / "tokens.css").read_text() + "\n"
    pico = (PAGES / "static" / "vendor" / "pico.min.css").read_text().removeprefix('@charset "UTF-8";')
    assert ours == pico + "}\n" + (PAGES / "static" / "meterline.css").read_text()


def test_a_page_has_one_script_so_that_no_part_of_it_starts_without_the_others() -> None:
    # A page's live ledger stayed still where the extension came after htmx had looked over the page.
    for path in sorted((PAGES / "templates").rglob("*.html")):
        scripts = re.findall(r"<script[^>]*>", path.read_text())
        assert scripts == ([f"<script src=\"{{{{ static('{SCRIPT}') }}}}\" defer>"] if path.name == "base.html" else [])
    names = ("vendor/htmx.min.js", "vendor/hx-sse.min.js", "meterline.js", "ledger.js", "lines.js")
    assert not set(names) & set(static_files())
    assert {path.name for path in (PAGES / "static").glob("*.js")} == {each for each in names if "/" not in each}
    whole = static_files()[SCRIPT].content.decode()
    assert whole == "\n;".join((PAGES / "static" / name).read_text() for name in names)


def test_files_are_kept_for_as_long_as_they_are_as_they_are(operator: Operator) -> None:
    with httpx.Client(base_url=operator.http.base_url) as anybody:
        for name, file in static_files().items():
            answer = anybody.get(static_path(name))
            assert (answer.status_code, answer.content) == (200, file.content), name
            headers = answer.headers
            assert headers["content-encoding"] == "gzip" and "immutable" in headers["cache-control"], name
            assert headers["content-type"] == MEDIA_TYPES[f".{name.rpartition('.')[2]}"], name
            assert headers["x-content-type-options"] == "nosniff", name
        old = anybody.get(f"{PREFIX}/0123456789ab/{SHEET}")
        assert (old.status_code, old.headers["cache-control"]) == (200, "no-cache")
        plain = anybody.get(static_path(SHEET), headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        for name in (
            "nothing.css",
            "..%2fpages.py",
            "%2e%2e%2fpages.py",
            "vendor/manifest.json",
            "vendor/htmx.LICENSE",
        ):
            assert anybody.get(f"{PREFIX}/x/{name}").status_code in (404, 422), name


def test_a_manifest_that_lies_is_noticed(tmp_path: Path) -> None:
    entry: dict[str, Any] = {"file": "a.js", "package": "a", "version": "1.0.0", "path": "a.js", "licence": "MIT"}
    (tmp_path / "a.js").write_text("1")
    for digest, extra in ((sha256(b"2").hexdigest(), ""), (sha256(b"1").hexdigest(), "b.js")):
        (tmp_path / "manifest.json").write_text(json.dumps({"registry": "npm", "files": [entry | {"sha256": digest}]}))
        if extra:
            (tmp_path / extra).write_text("")
        with pytest.raises(AssertionError):
            test_each_vendored_file_is_the_one_that_its_manifest_names(tmp_path)
