"""The tasks of each role are done from its page alone: its commands are typed in, in a terminal where nothing else was,
and print what the page says. One `meterline up`, which the first page starts, serves them all."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.docs_blocks import ROLE_PAGES, UP, Block, Reader, blocks_of, is_answer, someone_new, text_of

PAGES = sorted(ROLE_PAGES.values())
# Of a page, the lines within which somebody has seen an answer.
FIRST_SUCCESS_LINES_MAX = 50
# What only makes something to look at.
_SCENE = re.compile(r"\b(projects|keys) create\b")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A Reader who is new, and reads no page but those of roles."""
    someone = Reader(someone_new(tmp_path_factory.mktemp("home")), tmp_path_factory.mktemp("reader"))
    try:
        yield someone
    finally:
        someone.close()


@pytest.mark.parametrize("page", PAGES)
def test_a_role_does_its_tasks_from_its_page_alone(reader: Reader, page: str) -> None:
    blocks = blocks_of(page)
    printed = iter(reader.read_alone(page))
    # The reader has compared each answer that the page shows with what was printed.
    assert reader.done >= set(blocks)
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language == "bash" and next(printed) and after not in answers(blocks):
            assert block.text == UP or _SCENE.search(block.text), f"{block} prints what the page does not show"
    assert all(block.text.replace("...", "").strip() for block in answers(blocks)), "an answer says something"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_begins_with_a_first_success(page: str) -> None:
    text = text_of(page)
    assert text.index("This page is for") < text.index("\n## First success: ") < text.index("```")
    blocks = blocks_of(page)
    assert [block.text for block in blocks if block.language == "bash"][0] == UP
    assert next(block.line for block in answers(blocks)) <= FIRST_SUCCESS_LINES_MAX


def answers(blocks: list[Block]) -> list[Block]:
    """The blocks that show what the block before them printed."""
    return [block for block in blocks if block.language in ("text", "json")]


def test_an_answer_that_differs_is_noticed() -> None:
    assert is_answer("id   credits\n...  60", "id  credits\n4-0-1  60\n")
    assert not is_answer("id   credits\n...  60", "id  credits\n4-0-1  61\n")
    assert not is_answer("available: 9000", "available: 9000\nheld: 1\n")
