"""The pictures in the documents are there, small, and those that the script makes."""

from __future__ import annotations

import random
import re
from io import BytesIO

import pytest
from PIL import Image

from streams.settings import PROJECT_ROOT
from tests.dashboard.pictures import BYTES_MAX, FOLDER, PICTURES, WIDTH, small
from tests.dashboard.walked import PREFIX, get_routes, is_of

PAGE = PROJECT_ROOT / "docs" / "dashboard.md"


def test_the_page_shows_each_picture_once_in_words_too() -> None:
    shown = re.findall(r"!\[([^\]]{20,})\]\(pictures/([\w-]+)\.png\)", PAGE.read_text())
    assert sorted(name for _, name in shown) == sorted(picture.name for picture in PICTURES)
    assert {path.name for path in FOLDER.iterdir()} == {f"{picture.name}.png" for picture in PICTURES}


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_a_picture_is_small_and_of_a_page_that_there_is(picture) -> None:
    path = FOLDER / f"{picture.name}.png"
    assert path.stat().st_size <= BYTES_MAX
    assert Image.open(path).width == (390 if picture.phone else WIDTH)
    asked = picture.path.partition("?")[0].format(project="acme")
    assert asked == PREFIX or any(is_of(route, asked) for route in get_routes() if not route.endswith(":path}"))


def test_a_picture_is_made_small_and_noise_can_not_be() -> None:
    def png(image: Image.Image) -> bytes:
        out = BytesIO()
        image.save(out, "PNG")
        return out.getvalue()

    plain = small(png(Image.new("RGB", (1200, 800), "#0b6e5f")), WIDTH)
    assert Image.open(BytesIO(plain)).size == (900, 600) and len(plain) < 5_000
    noise = Image.frombytes("RGB", (WIDTH, 300), random.Random(1).randbytes(3 * WIDTH * 300))
    with pytest.raises(AssertionError, match="bytes with 32 colours"):
        small(png(noise), WIDTH)
