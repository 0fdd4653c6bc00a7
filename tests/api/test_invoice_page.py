"""The page of an invoice: printed by a browser on paper, nothing of it is cut off; and what its logo may be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from api.invoice_logo import logo_url
from api.pictures import PICTURE_BYTES_MAX
from api.views.invoice_files import as_html
from schemas.http.invoices import Invoice
from schemas.prices import FIRST_PRICE_BOOK
from streams.errors import OperatorError
from streams.history.invoice_words import group_digits, operation_name
from streams.settings import Settings
from tests.browser import run_browser

GOLDEN = Path(__file__).parent.parent / "golden" / "invoice.json"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6364f8ff1f0003030200efa2a75b"
    "0000000049454e44ae426082"
)
# What is left of a sheet's width between the page's margins, at 96 pixels an inch.
PAPERS = {"A4": (210 - 32) * 96 // 25.4, "letter": (215.9 - 32) * 96 // 25.4}
# Everything that is wider than its place, or stands out of the sheet; a browser prints none of that.
_CUT_OFF = """<script>
const found = [...document.body.querySelectorAll("*")].filter(each =>
  each.getBoundingClientRect().right > document.documentElement.clientWidth + 1
  || each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).display !== "inline")
  .map(each => each.outerHTML.slice(0, 200));
document.title = JSON.stringify({width: document.documentElement.clientWidth, found});
</script>"""


def browse(chromium: str, page: str, tmp_path: Path, *arguments: str) -> str:
    file = tmp_path / "invoice.html"
    file.write_text(page)
    return run_browser(chromium, tmp_path, *arguments, file.as_uri()).stdout


def small() -> Invoice:
    return Invoice.model_validate_json(GOLDEN.read_text())


def large() -> Invoice:
    """An agency's month: 40 projects, long names, and amounts in the millions."""
    invoice = small()
    part = invoice.projects[1]
    for line in part.lines:
        line.credits = line.credits if line.credits == "0" else "-123456789.123456"
        line.cents *= 1_000_000
        line.count = line.quantity = 1_234_567_890
    names = ["W" * 200, "A project with a name of many words " * 5, "Shop", "\N{CJK UNIFIED IDEOGRAPH-5E97}" * 100]
    invoice.projects = [
        part.model_copy(update={"project": f"{number}-" + "p" * 120, "name": names[number % len(names)]})
        for number in range(40)
    ]
    invoice.memo = "Pay to DE02120300000000202051 " + "X" * 300
    return invoice


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("invoice", [small, large])
def test_nothing_is_cut_off_on_paper(chromium: str, tmp_path: Path, paper: str, invoice) -> None:
    page = as_html(invoice(), logo_of(tmp_path, PNG)).replace("@media print", "@media all")
    width = int(PAPERS[paper])
    shown = browse(chromium, page + _CUT_OFF, tmp_path, f"--window-size={width},1000", "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", shown, re.DOTALL)
    assert title is not None
    seen = json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert abs(seen["width"] - width) < 20, "the browser has the width of the paper"
    assert seen["found"] == []


@pytest.mark.parametrize(("invoice", "pages"), [(small, range(1, 3)), (large, range(30, 61))])
def test_an_invoice_is_printed_on_few_sheets(chromium: str, tmp_path: Path, invoice, pages: range) -> None:
    page = as_html(invoice(), logo_of(tmp_path, PNG)).replace("@page { ", "@page { size: A4; ")
    printed = tmp_path / "invoice.pdf"
    browse(chromium, page, tmp_path, f"--print-to-pdf={printed}", "--no-pdf-header-footer")
    content = printed.read_bytes()
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", content)
    assert len(boxes) in pages
    # A4 in points.
    assert {(round(float(width)), round(float(height))) for width, height in boxes} == {(595, 842)}


def logo_of(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "logo"
    path.write_bytes(content)
    return logo_url(Settings(invoice_logo=path))


def test_a_logo_is_in_the_page_itself(tmp_path: Path) -> None:
    assert logo_url(Settings()) == ""
    assert logo_of(tmp_path, PNG).startswith("data:image/png;base64,iVBORw0KGgo")
    assert logo_of(tmp_path, b"\xff\xd8\xff\xe0").startswith("data:image/jpeg;base64,")
    assert f'src="{logo_of(tmp_path, PNG)}"' in as_html(small(), logo_of(tmp_path, PNG))
    assert "<img" not in as_html(small())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "neither PNG nor JPEG"),
        (b"<svg onload='alert(1)'/>", "neither PNG nor JPEG"),
        (PNG + b"\0" * PICTURE_BYTES_MAX, "above 256 KB"),
    ],
)
def test_what_is_no_logo_is_refused_by_the_name_of_the_setting(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(OperatorError, match=f"METERLINE_INVOICE_LOGO is .*{why}.* Name a "):
        logo_of(tmp_path, content)
    with pytest.raises(OperatorError, match="METERLINE_INVOICE_LOGO is .*: No such file"):
        logo_url(Settings(invoice_logo=tmp_path / "nowhere"))
    with pytest.raises(OperatorError, match="METERLINE_INVOICE_LOGO is .*: Is a directory"):
        logo_url(Settings(invoice_logo=tmp_path))


def test_every_operation_of_the_first_price_book_has_a_name_without_signs() -> None:
    names = [operation_name(operation) for operation in FIRST_PRICE_BOOK.rates]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Z][a-z]+[a-z, ]*", name) for name in names), names
    assert operation_name("audio.long_form") == "Audio, long form"
    assert operation_name("...") == "..."


@pytest.mark.parametrize(
    ("credits", "text"), [("0", "0"), ("-0.06", "-0.06"), ("999", "999"), ("-1234567.000001", "-1,234,567.000001")]
)
def test_credits_are_grouped(credits: str, text: str) -> None:
    assert group_digits(credits) == text


def test_money_comes_first_then_usage_and_what_is_free_is_one_line() -> None:
    page = as_html(small())
    shop = page[page.index("Fees and purchases") :]
    assert shop.index("Build plan") < shop.index("Usage, paid with credits") < shop.index("Blog post")
    assert page.count("Free of charge") == 1
    assert "Free of charge: Read<" in page
    assert "social_post" not in page and "20,000" in page
