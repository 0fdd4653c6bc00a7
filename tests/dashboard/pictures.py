"""The pictures of the dashboard in `docs/`, made anew: `uv run python -m tests.dashboard.pictures`.

A stack of its own is started; its project is the story's, whose customers go on meanwhile as those of the demo do. The
pictures have few colours, so that each is small.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, StorageState, expect

from api.cli.test import BROWSERS, NO_BROWSER
from api.demo.shop import PROJECT, Shop
from api.stack import Stack, settings_apart
from streams.settings import PROJECT_ROOT
from tests.calls import Operator
from tests.dashboard.browser import Looker, launched, looking
from tests.dashboard.story import Story, told, with_announced_prices

FOLDER = PROJECT_ROOT / "docs" / "pictures"
WIDTH, BYTES_MAX = 900, 60_000
# So long customers use the project before the pictures: a ledger has rows, and a chart has more than a point.
_USE_SECONDS = 45.0
# The pages are made for a desk: a window of this width is shown at WIDTH.
_WINDOW = {"width": 1200, "height": 800}
_PHONE = {"width": 390, "height": 720}
_COLOURS = (256, 128, 64, 32)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture: the name of its file, the page, who looks at it, and how."""

    name: str
    path: str
    is_admin: bool = False
    dark: bool = False
    phone: bool = False


PICTURES = (
    Picture("overview", "/dashboard"),
    Picture("project", "/dashboard/projects/{project}", is_admin=True),
    Picture("ledger", "/dashboard/ledger", dark=True),
    Picture("usage", "/dashboard/usage?group=customer_id&range=24h"),
    Picture("webhooks", "/dashboard/webhooks?project={project}", is_admin=True),
    Picture("phone", "/dashboard", phone=True),
)


def make(chromium: str, folder: Path) -> None:
    """Make all pictures. Raises AssertionError where a page is not there, or a picture can't be made small enough."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="meterline-pictures-") as directory,
        Stack(settings_apart(Path(directory), price_lead_seconds=0), progress=True) as stack,
        told(stack, PROJECT) as story,
        Shop(stack.url, stack.admin_key),
        with_announced_prices(Operator(stack), story) as story,
        launched(chromium) as browser,
    ):
        time.sleep(_USE_SECONDS)
        for picture in PICTURES:
            size = _make(browser, stack, story, picture, folder / f"{picture.name}.png")
            print(f"{picture.name}.png: {size:,} bytes")


def _make(browser: Browser, stack: Stack, story: Story, picture: Picture, path: Path) -> int:
    with looking(browser, stack.url, _kept(browser, stack, story, picture.is_admin)) as looker:
        looker.show(dark=picture.dark, phone=picture.phone, still=True)
        looker.page.set_viewport_size({**(_PHONE if picture.phone else _WINDOW)})  # type: ignore[arg-type]
        assert looker.open(story.filled(picture.path)) == 200, picture.path
        _wait_for_charts(looker)
        content = small(looker.page.screenshot(), _PHONE["width"] if picture.phone else WIDTH)
    path.write_bytes(content)
    return len(content)


def small(picture: bytes, width: int) -> bytes:
    """A PNG as one of this width with as many colours as are small enough. Raises AssertionError where none are."""
    image = Image.open(BytesIO(picture)).convert("RGB")
    height = round(image.height * width / image.width)
    scaled = image.resize((width, height), Image.Resampling.LANCZOS) if image.width != width else image
    for colours in _COLOURS:
        out = BytesIO()
        scaled.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        if out.tell() <= BYTES_MAX:
            return out.getvalue()
    raise AssertionError(f"the picture has {out.tell():,} bytes with {colours} colours; {BYTES_MAX:,} at most")


def _kept(browser: Browser, stack: Stack, story: Story, is_admin: bool) -> StorageState:
    with looking(browser, stack.url) as looker:
        looker.sign_in(story.admin_key if is_admin else story.key)
        return looker.context.storage_state()


def _wait_for_charts(looker: Looker) -> None:
    for chart in looker.page.locator("canvas").all():
        expect(chart).to_be_visible()


if __name__ == "__main__":
    found = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if found is None:
        sys.exit(NO_BROWSER)
    make(found, FOLDER)
