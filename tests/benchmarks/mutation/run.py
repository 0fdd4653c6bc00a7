"""The mutation score of `streams/core`: of the small changes that mutmut makes to it, how many a test notices.

mutmut changes one thing at a time, such as `<` to `<=`, and runs the tests that reach the changed function. A change
that no test notices, a survivor, is a rule that nothing proves, or it changes nothing that anybody could see: then
`explained.toml` says why.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from streams.errors import OperatorError
from streams.settings import PROJECT_ROOT
from tests.benchmarks.machine import describe
from tests.benchmarks.mutation import plugin

EXPLAINED = Path(__file__).parent / "explained.toml"
NEEDED = ("schemas", "streams", "api", "tests", "clickhouse", "pyproject.toml", "README.md")
QUICK: dict[str, Any] = {"modules": ["pricing"], "tests": ["tests/core/test_pricing.py"]}
TESTS = ("tests/core", "tests/simulation")
SETTINGS = """
[tool.mutmut]
source_paths = ["streams", "schemas", "api"]
only_mutate = [{modules}]
also_copy = ["clickhouse", "README.md"]
track_dependencies = false
timeout_multiplier = 4.0
timeout_constant = 5.0
pytest_add_cli_args_test_selection = [{tests}]
pytest_add_cli_args = [
    "-p", "{plugin}",
    "-p", "no:cacheprovider",
    "-p", "no:xdist",
    "--hypothesis-profile=unshrunk",
    # It reads the core's text, where mutmut has written all mutants.
    "--ignore=tests/core/test_facts.py",
    # They break the core by themselves, to see that the simulation finds it.
    "--deselect=tests/simulation/test_simulation.py::test_the_simulation_finds_what_is_broken",
]
"""
# mutmut compares every name asked for with every name there is.
ASKED_AT_ONCE = 100
# Of what is random a mutant is tried by little: there are thousands of mutants.
FEW = {"METERLINE_EXAMPLES": "25", "METERLINE_LEDGER_STEPS": "2000", "METERLINE_SIMULATION_SEEDS": "20"}
KILLED = ("killed", "timeout", "suspicious", "segfault", "caught by type check")


def measure(
    sample: int, seed: int, tell: Callable[[str], None], modules: Sequence[str] = (), tests: Sequence[str] = TESTS
) -> dict[str, Any]:
    """Try a sample of the mutants of the modules (of all, where none is named), drawn by `seed`, or for 0 each of them;
    gives how many were killed, and each survivor with its change and, where it has one, its explanation.

    Says so where mutmut is not installed. Raises OperatorError where there is no such module, or the tests fail on the
    unchanged core.
    """
    for module in modules:
        if not (PROJECT_ROOT / f"streams/core/{module}.py").is_file():
            raise OperatorError(f"There is no module {module!r} in streams/core; name one as in --module pricing")
    if find_spec("mutmut") is None:
        return {"skipped": "mutmut is not installed: uv run --group bench …"}
    began_at = time.monotonic()
    with TemporaryDirectory() as directory:
        work = Path(directory)
        for name in NEEDED:
            _copy(PROJECT_ROOT / name, work / name)
        with (work / "pyproject.toml").open("a") as pyproject:
            paths = [f"streams/core/{module}.py" for module in modules or ["*"]]
            pyproject.write(SETTINGS.format(modules=_listed(paths), tests=_listed(tests), plugin=plugin.__name__))
        tell("writing the mutants, and finding out which tests reach which function")
        # It does both before it finds that it has no mutant of this name.
        if "nothing matches" not in (told := _mutmut(work, "run", "none", is_to_fail=True)):
            raise OperatorError(f"The tests fail on the unchanged core: {told[-4000:]}")
        names = sorted(_states(work))
        drawn = random.Random(seed).sample(names, sample) if 0 < sample < len(names) else names
        for first in range(0, len(drawn), ASKED_AT_ONCE):
            asked = drawn[first : first + ASKED_AT_ONCE]
            tell(f"trying mutants {first + 1:,} to {first + len(asked):,} of {len(drawn):,}")
            _mutmut(work, "run", *asked)
        found = _states(work)
        states = {name: found[name] for name in drawn}
        explanations = explained()
        survivors = [
            {"mutant": name, "state": state, "change": change, "why": explanations.get((function_of(name), change))}
            for name, state in sorted(states.items())
            if state not in KILLED
            for change in [change_of(_mutmut(work, "show", name))]
        ]
    unexplained = [each for each in survivors if each["why"] is None]
    return {
        "mutants": len(names),
        "tried": len(drawn),
        "seed": seed,
        "killed": len(drawn) - len(survivors),
        "explained": len(survivors) - len(unexplained),
        "unexplained": len(unexplained),
        "score_percent": round(100 * (len(drawn) - len(survivors)) / len(drawn), 1),
        "score_percent_with_explained": round(100 * (len(drawn) - len(unexplained)) / len(drawn), 1),
        "states": dict(Counter(states.values())),
        "by_module": _by_module(states),
        "seconds": round(time.monotonic() - began_at, 1),
        "survivors": survivors,
        "machine": describe(),
    }


def explained() -> dict[tuple[str, str], str]:
    """The survivors that change nothing anybody could see: by function and change, why."""
    return {
        (each["function"], each["change"].strip()): each["why"]
        for each in tomllib.loads(EXPLAINED.read_text()).get("survivor", [])
    }


def function_of(mutant: str) -> str:
    """A mutant's function, as `module.function` or `module.Class.function`, of mutmut's name for it."""
    module, _, mangled = mutant.rpartition("__mutmut_")[0].rpartition(".")
    return f"{module}.{mangled.removeprefix('xǁ').removeprefix('x_').replace('ǁ', '.')}"


def change_of(diff: str) -> str:
    """The lines that a mutant takes away and adds, of a unified diff, without their indentation."""
    lines = [line for line in diff.splitlines() if line[:1] in "+-" and not line.startswith(("+++", "---"))]
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in lines)


def _by_module(states: dict[str, str]) -> dict[str, str]:
    tried = Counter(name.split(".")[2] for name in states)
    killed = Counter(name.split(".")[2] for name, state in states.items() if state in KILLED)
    return {module: f"{killed[module]} of {times}" for module, times in sorted(tried.items())}


def _states(work: Path) -> dict[str, str]:
    def read() -> Iterator[tuple[str, str]]:
        for line in _mutmut(work, "results", "--all", "true").splitlines():
            name, _, state = line.strip().partition(": ")
            if "__mutmut_" in name:
                yield name, state

    return dict(read())


def _mutmut(work: Path, *arguments: str, is_to_fail: bool = False) -> str:
    few = {name: os.environ.get(name, number) for name, number in FEW.items()}
    done = subprocess.run(
        [Path(sys.executable).with_name("mutmut"), *arguments],
        cwd=work,
        env={**os.environ, **few},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode and not is_to_fail:
        raise OperatorError(f"mutmut {arguments[0]} failed: {done.stdout[-4000:]}")
    return done.stdout


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(f'"{text}"' for text in texts)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)
