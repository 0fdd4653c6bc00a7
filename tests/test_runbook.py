"""The runbook's drill is typed in as it stands, block by block, on a Meterline of its own; and its alert rules name
metrics that there are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from api.stack import Stack
from streams.settings import PROJECT_ROOT
from tests.docs_blocks import Terminal, blocks_of, text_of

RUNBOOK = "docs/runbook.md"
DRILL = "/tmp/meterline-drill"


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The output of each block of the drill."""
    scratch = tmp_path_factory.mktemp("runbook")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("METERLINE_")}
    terminal = Terminal(PROJECT_ROOT, inherited | {"UV_NO_SYNC": "1"}, scratch)
    try:
        yield [
            # A directory of this run's own stands for the one that the page names, and both streams are of interest.
            terminal.run(f"{{ {block.text.replace(DRILL, str(scratch / 'drill'))}\n}} 2>&1", str(block))
            for block in blocks_of(RUNBOOK)
        ]
    finally:
        terminal.close()


def test_a_restore_is_tried_as_the_runbook_says(printed: list[str]) -> None:
    before, bought, refused, restored = printed
    assert "project: drill" in before
    assert "granted: 4000\n" in bought and "no drift" in bought
    (sentence,) = [line for line in refused.splitlines() if line.startswith("error: ")]
    # Whichever table is looked at first.
    assert re.search(r"history stops: ClickHouse's table \w+ has the record at offset", sentence)
    assert "Kafka was restored from an older backup than ClickHouse" in sentence
    assert "Restore both from one time" in sentence and "Traceback" not in refused
    assert "Meterline is up" not in refused
    assert "available: 5000\n" in restored, "yesterday's balance: the bundle was bought since"
    assert "no drift" in restored


def test_every_alert_asks_for_metrics_that_there_are_and_says_where_to_read_on(stack: Stack) -> None:
    groups = yaml.safe_load((PROJECT_ROOT / "docs/alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    there = httpx.get(stack.metrics_url).text + httpx.get(f"{stack.clickhouse_url}/metrics").text
    names = set(re.findall(r"^# TYPE (\w+)", there, re.MULTILINE))
    topics = set(re.findall(r'topic="(\w+)"', there))
    for rule in rules:
        asked = re.findall(r"meterline_\w+", rule["expr"])
        assert asked and {name.removesuffix("_total") for name in asked} <= {
            name.removesuffix("_total") for name in names
        }, rule["alert"]
        for pattern in re.findall(r'topic=~"([^"]+)"', rule["expr"]):
            assert set(pattern.split("|")) <= topics, rule["alert"]
        for heading, page in re.findall(r'See "([^"]+)" in (docs/\w+\.md)', rule["annotations"]["action"]):
            assert f"\n## {heading}\n" in text_of(page), rule["alert"]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 8


def test_the_drill_leaves_nothing_behind(printed: list[str]) -> None:
    assert printed and not Path(DRILL).exists()
