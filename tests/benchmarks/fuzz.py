"""A coverage-guided run of atheris (libFuzzer) over what reads foreign bytes: `python -m tests.benchmarks.fuzz TARGET`.

It must be a process of its own: libFuzzer takes it over, and ends it at the first input that breaks a promise, with the
input on standard error. Atheris is in the group `bench`: `uv run --group bench python -m tests.benchmarks.fuzz accept`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from streams.settings import PROJECT_ROOT

AT_MS = 1_780_000_000_000
BYTES_MAX = 4096
INSTRUMENTED = ("acceptance", "fold", "foreign", "packed_usage")
GOOD = b'{"specversion":"1.0","id":"%s","source":"/s","type":"t","subject":"p1","data":{"operation":"image"}}'


def accept(value: bytes) -> None:
    """Read a record, and one in which a good event stands before the same bytes: that event must be accepted."""
    from schemas.prices import FIRST_PRICE_BOOK
    from schemas.problems import CODES
    from streams.core.acceptance import accept_record, named

    _, rejected = accept_record(value, AT_MS, FIRST_PRICE_BOOK.rates)
    assert len(named(value, rejected)) <= 2 + len(value) // 64
    for _, _, rejection in rejected:
        assert rejection.code in CODES
        assert rejection.code != "unprocessable_record", rejection
    beside, _ = accept_record(b"[" + GOOD % b"good" + b"," + value + b"]", AT_MS, FIRST_PRICE_BOOK.rates)
    assert beside[0].event_id == "good"


def packed(value: bytes) -> None:
    """Read a pack, and one in which these bytes stand between good events: those must be accepted."""
    from schemas.events import PACKED_EVENT_BYTES_MIN
    from schemas.prices import FIRST_PRICE_BOOK
    from schemas.problems import CODES
    from streams.core.acceptance import named
    from streams.core.foreign import finished
    from streams.core.packed_usage import accept_pack, pack, packed_event

    _, rejected = finished(accept_pack(value, AT_MS, FIRST_PRICE_BOOK.rates))
    assert len(named(value, rejected, PACKED_EVENT_BYTES_MIN)) <= 2 + len(value) // PACKED_EVENT_BYTES_MIN
    for _, _, rejection in rejected:
        assert rejection.code in CODES
        assert rejection.code != "unprocessable_record", rejection
    good = [packed_event(GOOD % id)[1] for id in (b"first", b"last")]
    beside, _ = finished(accept_pack(pack([good[0], value, good[1]]), AT_MS, FIRST_PRICE_BOOK.rates))
    assert (beside[0].event_id, beside[-1].event_id) == ("first", "last")


def split(value: bytes) -> None:
    """Tell an array's elements apart: they are there, in order, and JSON is split as a JSON reader splits it."""
    import json

    from streams.core.foreign import finished, split_array

    whole = b"[" + value
    texts, rest = finished(split_array(whole, 100))
    position = 0
    for text in [*texts, rest or b""]:
        position = whole.index(text, position) + len(text)
    try:
        elements = json.loads(whole.decode())
    except Exception:
        return
    assert len(elements) == len(texts) or len(texts) == 101
    assert rest is None or len(texts) == 101


def intake(value: bytes) -> None:
    """Read an intake record, and fold it over no accounts: the one error is what the last resort is for."""
    from schemas.problems import CODES
    from streams.core.fold import IntakeItem, UnforeseenError, fold, needed
    from streams.core.foreign import UnreadableError
    from streams.core.replies import Kept
    from streams.kafka.codecs import decode_intake

    try:
        item = IntakeItem(1, AT_MS, decode_intake(value))
        needed([item])
        for letter in fold(0, [item], {}, {}, Kept(), "intake").dead_letters:
            assert letter.code in CODES
    except (UnreadableError, UnforeseenError):
        pass


TARGETS: dict[str, Callable[[bytes], None]] = {"accept": accept, "packed": packed, "split": split, "intake": intake}


def measure(target: str, runs: int) -> dict[str, Any]:
    """Fuzz one target in a process of its own; gives how many inputs it took and how many edges they reached, or what
    is not installed. Raises AssertionError with what broke a promise."""
    from streams.core.packed_usage import pack, packed_event

    if find_spec("atheris") is None:
        return {"target": target, "skipped": "atheris is not installed: uv run --group bench …"}
    with TemporaryDirectory() as directory:
        (Path(directory) / "event").write_bytes(GOOD % b"e")
        (Path(directory) / "pack").write_bytes(pack([packed_event(GOOD % b"e")[1]] * 2))
        (Path(directory) / "array").write_bytes(b"[" + GOOD % b"e" + b',{"a":"\\ud83d"},01]')
        command = [sys.executable, "-m", "tests.benchmarks.fuzz", target, directory, f"-runs={runs}"]
        limits = [f"-max_len={BYTES_MAX}", "-timeout=10", "-rss_limit_mb=1024", f"-artifact_prefix={directory}/"]
        done = subprocess.run([*command, *limits], cwd=PROJECT_ROOT, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr[-4000:]
    covered = re.findall(r"cov: (\d+)", done.stderr)
    taken = re.search(r"Done (\d+) runs", done.stderr)
    assert taken, done.stderr[-4000:]
    return {"target": target, "runs": int(taken[1]), "edges": int(covered[-1])}


def main() -> None:
    """Fuzz the target that the first argument names; the others are libFuzzer's."""
    import atheris

    with atheris.instrument_imports(include=[f"streams.core.{name}" for name in INSTRUMENTED]):
        import streams.core.acceptance
        import streams.core.fold
        import streams.core.foreign
        import streams.core.packed_usage  # noqa: F401
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
