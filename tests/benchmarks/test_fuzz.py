"""A coverage-guided fuzzer finds no bytes that break what is promised of foreign bytes; and it would notice some that
do."""

import pytest

from streams.core import acceptance
from tests.benchmarks import fuzz


@pytest.mark.benchmark
@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_no_bytes_that_the_fuzzer_finds_break_a_promise(target: str) -> None:
    result = fuzz.measure(target, 5_000)
    assert result.get("skipped") or (result["runs"] >= 5_000 and result["edges"] > 3)


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_targets_take_what_they_begin_with(target: str) -> None:
    for value in (b"", fuzz.GOOD % b"e", b"[" * 998, b'[{"a":"\\ud83d"},01]', b"\x92\xa5usage\x90"):
        fuzz.TARGETS[target](value)


def test_a_broken_promise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise KeyError("no such operation")

    monkeypatch.setattr(acceptance, "meter", broken)
    with pytest.raises(AssertionError, match="no such operation"):
        fuzz.accept(fuzz.GOOD % b"e")
