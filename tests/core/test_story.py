"""The core says, states and keeps what `story.txt` has, to the letter."""

from schemas.commands import AnyCommand
from tests.core import story


def test_the_story_is_as_it_was_told() -> None:
    told, known = story.told().splitlines(), story.TEXT.read_text().splitlines()
    for number, (now, then) in enumerate(zip(told, known, strict=False), 1):
        assert now == then, f"line {number}; where that is meant: uv run python -m tests.core.story"
    assert len(told) == len(known)


def test_the_story_has_every_command() -> None:
    assert {kind.__name__ for kind in AnyCommand.__args__} <= set(story.steps())
