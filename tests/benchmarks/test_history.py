"""`meterline bench history` asks questions whose answers are those of the rows, and notices where they are not."""

from dataclasses import replace

import pytest

from tests.benchmarks.history import run
from tests.benchmarks.history.questions import Question, questions


@pytest.mark.benchmark
def test_every_question_is_answered_as_the_rows_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_wrong_one(event_id: str) -> list[Question]:
        found = questions(event_id)
        return [*found, replace(found[0], name="wrong", sql=found[0].sql.replace("-sum(amount)", "sum(amount)"))]

    monkeypatch.setattr(run, "questions", with_a_wrong_one)
    result = run.measure(100_000, 50, 1, lambda _text: None)
    assert [each["name"] for each in result["questions"] if not each["equals_rows"]] == ["wrong"]
    assert result["wrong"] == 1
    kept = {each["name"]: each for each in result["questions"]}
    day = kept["platform_day_by_operation"]
    assert 0 < day["rows_read"] < day["raw_rows_read"]
    assert kept["event_look_up"]["rows"] == 1 and kept["ledger_page"]["rows"] == 101
    assert 20 < result["disk_bytes_per_fact"] < 150
