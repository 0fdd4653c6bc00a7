"""The tree is tidy: lengths, docstrings, modules, constants that agree, commands with all their parts.

The checks are in `tests/tidy`. Each is tried here on the tree, and on something made up that it must complain of.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from api.cli.main import CHECKOUT_COMMANDS, COMMANDS
from schemas.commands import AnyCommand
from streams.settings import PROJECT_ROOT, Settings
from tests.tidy import agreement, commands, docstrings, documents, foreign, lengths, modules, printing
from tests.tidy.commands import WAYS, Way
from tests.tidy.documents import Figure
from tests.tidy.sources import EVERYWHERE, PRODUCT, Source, sources

ALL = sources(PROJECT_ROOT, *EVERYWHERE)
OF_PRODUCT = sources(PROJECT_ROOT, *PRODUCT)
CORE_README = "streams/core/README.md"
ENTRY_POINTS = frozenset({*COMMANDS.values(), *CHECKOUT_COMMANDS.values(), *modules.ENTRY_POINTS})


def nothing_in(complaints: list[str]) -> None:
    """Raises AssertionError with every complaint on a line of its own."""
    assert not complaints, "\n".join(["", *complaints])


def written(root: Path, **texts: str) -> Path:
    """A tree of files. In their names `__` stands for a slash, and the last `_` for a full stop."""
    for name, text in texts.items():
        path = root / ".".join(name.replace("__", "/").rsplit("_", 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_functions_have_70_lines_at_most() -> None:
    nothing_in(lengths.long_functions(ALL))
    body = "\n    x = 1" * 70
    found = lengths.long_functions(
        [Source("a.py", f"class A:\n  async def long(self):{body}\n  def short(self): ...\n")]
    )
    assert found == ["a.py:2 long has 71 lines; 70 at most"]


def test_files_have_600_lines_at_most() -> None:
    nothing_in(lengths.long_files(ALL))
    found = lengths.long_files([Source("long.py", "x = 1\n" * 601), Source("short.py", "x = 1\n" * 600)])
    assert found == ["long.py has 601 lines; 600 at most"]


def test_docstrings_name_their_subject() -> None:
    nothing_in(docstrings.pronouns(ALL))


@pytest.mark.parametrize(
    ("opening", "is_refused"),
    [
        ("It waits.", True),
        ("It's late.", True),
        ("What a caller knows.", True),
        ("As of now.", True),
        ("None while it runs.", True),
        ("Another one.", True),
        ("One of them.", True),
        ("Each once, though repeated.", True),
        ("Each, once.", True),
        ("All.", True),
        ("All that was decided.", True),
        ("Every one.", True),
        ("Every account of a partition.", False),
        ("All `facts` in order.", False),
        ("One Kafka node.", False),
        ("Items run by the hour.", False),
        ("Italian is a language.", False),
        ("Assign the partitions.", False),
        ("(project, id) of a hold.", False),
    ],
)
def test_an_opening_is_refused_where_it_names_nothing(opening: str, is_refused: bool) -> None:
    for text in (f'"""{opening}"""', f'class A:\n    def f(self):\n        """{opening}"""\n'):
        assert bool(docstrings.pronouns([Source("a.py", text)])) == is_refused


def test_packages_say_in_three_lines_at_most_what_they_are_for() -> None:
    nothing_in(docstrings.silent_packages(ALL))
    silent = Source("a/b/__init__.py", "")
    wordy = Source("a/__init__.py", '"""One.\n\nTwo.\nThree.\n"""\n')
    found = docstrings.silent_packages([wordy, silent, Source("a/c/d.py", "")])
    assert [line.partition(" ")[0] for line in found] == ["a/c/__init__.py", "a/__init__.py", "a/b/__init__.py"]


def test_bytes_from_outside_are_decoded_in_one_place() -> None:
    nothing_in(foreign.naked(OF_PRODUCT))
    made_up = """
import msgspec
decode = msgspec.json.Decoder(int).decode
try:
    decode(b"1") + msgspec.msgpack.decode(b"1") + msgspec.json.Decoder().decode(b"1") + read(decode, b"1")
except (ValueError, msgspec.DecodeError):
    pass
"""
    found = foreign.naked([Source("a.py", made_up), Source("b.py", made_up)], {"b.py": "ours", "c.py": "ours"})
    assert sorted(found) == [
        "a.py:5 calls decode by itself: use `decoded` or `read` of streams/core/foreign.py",
        "a.py:5 calls msgspec.json.Decoder().decode by itself: use `decoded` or `read` of streams/core/foreign.py",
        "a.py:5 calls msgspec.msgpack.decode by itself: use `decoded` or `read` of streams/core/foreign.py",
        "a.py:6 catches DecodeError: a decoder raises more than that",
        "c.py calls no decoder by itself: it needs no exception",
    ]


def test_no_console_reads_markup_in_what_it_prints() -> None:
    nothing_in(printing.markup_readers(OF_PRODUCT))
    made_up = """
console = Console(stderr=True)
plain = Console(stderr=True, markup=False, emoji=False)
columns = TextColumn("{task.description}"), TextColumn("jars", markup=False)
with console.status(f"reading {file}"):
    plain.print(Text.from_markup(file))
"""
    assert [line.split()[0] for line in printing.markup_readers([Source("a.py", made_up)])] == [
        "a.py:2",
        "a.py:2",
        "a.py:4",
        "a.py:5",
        "a.py:6",
    ]


def test_modules_are_imported_by_somebody() -> None:
    nothing_in(modules.dead_modules(ALL, ENTRY_POINTS))
    files = [
        Source("streams/used.py", "import streams.used\n"),
        Source("streams/entry.py", "from streams import used\n"),
        Source("streams/tested.py", ""),
        Source("tests/test_it.py", "from streams.tested import something\nimport tests.help\n"),
        Source("tests/help.py", ""),
        Source("tests/alone.py", "import tests.alone\n"),
    ]
    assert modules.dead_modules(files, frozenset({"streams.entry"})) == [
        "streams/tested.py is imported by nobody but tests",
        "tests/alone.py is imported by nobody but tests",
    ]


def test_entry_points_exist() -> None:
    assert {file.module for file in ALL} >= ENTRY_POINTS


def test_files_of_streams_are_in_its_packages() -> None:
    nothing_in(modules.strays(ALL))
    found = modules.strays([Source("streams/new.py", ""), Source("streams/core/new.py", ""), Source("api/new.py", "")])
    assert [line.partition(" ")[0] for line in found] == ["streams/new.py"]


def test_no_two_classes_have_one_name() -> None:
    nothing_in(modules.shared_class_names([*OF_PRODUCT, *sources(PROJECT_ROOT, "tests/benchmarks")]))
    files = [Source("a.py", "class _Run: ...\n"), Source("b.py", "def f():\n    class _Run: ...\nclass Other: ...\n")]
    assert modules.shared_class_names(files) == ["_Run is in a.py:1 and b.py:2"]


def test_a_day_and_an_hour_are_defined_once() -> None:
    for value in (86_400_000, 3_600_000):
        assert len(agreement.assigned(OF_PRODUCT, value)) == 1
    text = "DAY_MS = 86_400_000\nOTHER: int = 24 * 60 * 60 * 1000\nWEEK = 7 * 86_400_000\nNAME = 'x'\n"
    assert agreement.assigned([Source("a.py", text)], 86_400_000) == ["a.py:1", "a.py:2"]


def test_limits_agree_wherever_they_stand() -> None:
    nothing_in(agreement.disagreements(agreement.limits_that_agree() | agreement.bounds_that_agree()))


def test_files_agree_on_versions_rooms_and_sizes() -> None:
    found = agreement.files_that_agree(PROJECT_ROOT)
    nothing_in(agreement.disagreements(found))
    assert all(value for places in found.values() for value in places.values()), found


def test_two_values_of_one_constant_are_told_with_their_places() -> None:
    found = agreement.disagreements({"days": {"code": 31, "page": 30}, "hours": {"code": 1, "page": 1}})
    assert found == ["days: code says 31, page says 30"]


def test_figures_in_documents_are_those_of_the_code() -> None:
    nothing_in(documents.wrong_figures(PROJECT_ROOT, agreement.figures()))


def test_a_wrong_figure_and_a_lost_one_are_told(tmp_path: Path) -> None:
    written(tmp_path, page_md="At most 31\ndays ago. At most 30 days ago.\n")
    right, lost = Figure("page.md", r"most (\d+) days", ("31",)), Figure("page.md", r"(\d+) hours", ("1",))
    found = documents.wrong_figures(tmp_path, [right, lost])
    assert [line.partition(" where ")[0] for line in found] == ["page.md says 30", "page.md says nothing"]


def test_settings_that_are_named_exist(tmp_path: Path) -> None:
    nothing_in(documents.unknown_settings(PROJECT_ROOT, Settings.model_fields))
    written(
        tmp_path,
        docs__page_md="`METERLINE_KAFKA_URL`, `METERLINE_KAFKA_ULR`, `METERLINE_SEED`\n",
        streams__a_py='"""Set METERLINE_KAFKA."""\n',
        tests__b_py='os.environ.get("METERLINE_SEED")\n',
    )
    assert documents.unknown_settings(tmp_path, ["kafka_url"]) == [
        "docs/page.md names METERLINE_KAFKA_ULR, which is no setting",
        "streams/a.py names METERLINE_KAFKA, which is no setting",
    ]


def test_files_that_are_named_exist(tmp_path: Path) -> None:
    nothing_in(documents.missing_files(PROJECT_ROOT))
    written(tmp_path, docs__page_md="`streams/a.py`, streams/gone.py, docs/decisions/0001, docs/decisions/0002.\n")
    written(tmp_path / "docs" / "decisions", **{"0001-integers_md": ""})
    written(tmp_path, streams__a_py="# see api/gone/\n")
    assert documents.missing_files(tmp_path) == [
        "docs/page.md names docs/decisions/0002, which does not exist",
        "docs/page.md names streams/gone.py, which does not exist",
        "streams/a.py names api/gone, which does not exist",
    ]


def test_links_lead_to_pages_and_headings_that_exist(tmp_path: Path) -> None:
    nothing_in(documents.dead_links(PROJECT_ROOT))
    page = "# A page\n\n[1](docs/b.md#what-cant-be-undone) [2](docs/b.md#gone) [3](gone.md) [4](#a-page) [5](#b) [6](https://a.b#c)\n"
    written(tmp_path, page_md=page, docs__b_md="## What can't be undone\n\n```bash\n# gone\n```\n")
    assert documents.dead_links(tmp_path) == [
        "page.md links to docs/b.md#gone, which does not exist",
        "page.md links to gone.md, which does not exist",
        "page.md links to #b, which does not exist",
    ]


def test_no_example_needs_a_newer_curl_than_people_have(tmp_path: Path) -> None:
    nothing_in(documents.newest_curl(PROJECT_ROOT))
    old = "curl -s http://a -d '{}'\nmeterline status --json\ncurl -s http://b | meterline c --json\n"
    written(tmp_path, old_md=old, new_md="curl -s http://a \\\n  --json '{}'\n")
    assert documents.newest_curl(tmp_path) == ["new.md has curl --json, which needs curl 7.82"]


def test_tests_that_invariants_name_exist(tmp_path: Path) -> None:
    nothing_in(documents.missing_tests(PROJECT_ROOT, CORE_README))
    written(tmp_path, page_md="`test_one`, `test_on…`, `test_a.py`, `test_two`, `test_tw…`, `test_b.py`\n")
    written(tmp_path, tests__test_a_py="def test_one(): ...\n")
    found = documents.missing_tests(tmp_path, "page.md")
    assert [line.split()[2].rstrip(",") for line in found] == ["test_two", "test_tw…", "test_b.py"]


def test_commands_have_all_their_parts() -> None:
    assert commands.commands(PROJECT_ROOT) == [kind.__name__ for kind in AnyCommand.__args__]
    nothing_in(commands.missing_parts(PROJECT_ROOT, WAYS))


# A made-up command with all its parts: file → text.
FREEZE = {
    commands.SHAPES: "class Freeze(Command): ...\nclass Thaw(Command): ...\nAnyCommand = Freeze | Thaw\n",
    commands.DECISIONS: "_DECISIONS: Mapping = {Freeze: freeze}\nif isinstance(command, Thaw): ...\n",
    "tests/core/test_freezing.py": "Freeze(); Thaw()\n",
    commands.RULES: "self.send(Freeze); self.send(Thaw)\n",
    commands.MODEL: "match command:\n    case Freeze() | Thaw(): ...\n",
    commands.CLIENTS: "rng.choice([Freeze, Thaw])\n",
    "api/routes/freezing.py": "Freeze()\n",
    "streams/cashier/thawing.py": "Thaw()\n",
    commands.DOCUMENT: '{"paths": {"/v1/projects/{project}/frozen": {"put": {"description": "Freeze a project."}}}}',
    "api/cli/ice.py": '@app.command("freeze")\ndef f():\n    """Freeze."""\n    call(f"/v1/projects/{it}/frozen")\n',
    "docs/operators.md": "`meterline ice` freezes projects.\n",
}
FREEZE_WAYS = {
    "Freeze": Way("api/routes/freezing.py", "PUT /v1/projects/{project}/frozen", "ice freeze"),
    "Thaw": Way("streams/cashier/thawing.py", why_none="it thaws by itself"),
}


def freezing(root: Path, path: str = "", old: str = "", new: str = "") -> list[str]:
    """The complaints about the made-up commands, in whose file `path` one text is replaced."""
    for name, text in FREEZE.items():
        assert name != path or old in text
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text.replace(old, new) if name == path else text)
    return commands.missing_parts(root, FREEZE_WAYS)


def test_a_whole_command_lacks_nothing(tmp_path: Path) -> None:
    assert freezing(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "old", "new", "complaint"),
    [
        (commands.SHAPES, "= Freeze | Thaw", "= Thaw", "lacks Freeze in AnyCommand"),
        (commands.DECISIONS, "Freeze: freeze", "", "lacks a rule for Freeze in _DECISIONS"),
        (commands.DECISIONS, "Thaw", "Melt", "lacks a rule for Thaw in _DECISIONS"),
        (commands.RULES, "self.send(Freeze)", "0", "lacks a rule of the ledger machine that sends Freeze"),
        (commands.MODEL, "Freeze() | ", "", "lacks a case of the model for Freeze"),
        (commands.CLIENTS, "Freeze, ", "", "lacks a client of the simulation that sends Freeze"),
        ("api/routes/freezing.py", "Freeze()", "Freeze", "lacks a place that makes Freeze"),
        ("streams/cashier/thawing.py", "Thaw()", "", "lacks a place that makes Thaw"),
        (commands.DOCUMENT, "put", "post", "lacks PUT /v1/projects/{project}/frozen of Freeze"),
        (commands.DOCUMENT, "Freeze a project.", "", "lacks a description of PUT /v1/projects/{project}/frozen"),
        ("api/cli/ice.py", '"freeze"', '"melt"', "lacks the command 'freeze' of Freeze"),
        ("api/cli/ice.py", '"""Freeze."""', "", "lacks a docstring of the command 'freeze'"),
        ("api/cli/ice.py", "frozen", "ice", "lacks a call of PUT /v1/projects/{project}/frozen for Freeze"),
    ],
)
def test_the_part_that_a_command_lacks_is_named(tmp_path: Path, path: str, old: str, new: str, complaint: str) -> None:
    (found,) = freezing(tmp_path, path, old, new)
    assert found.startswith(f"{path} {complaint}")


def test_a_command_lacks_a_test_a_page_or_a_way(tmp_path: Path) -> None:
    assert freezing(tmp_path, "tests/core/test_freezing.py", "Freeze()", "0") == [
        "tests/core/ lacks a test file that has Freeze"
    ]
    (found,) = freezing(tmp_path, "docs/operators.md", "meterline ice", "somebody")
    assert found.startswith("docs/ and CHANGELOG.md lack a word on Freeze")
    freezing(tmp_path)
    (found,) = commands.missing_parts(tmp_path, {"Thaw": FREEZE_WAYS["Thaw"]})
    assert found.startswith(f"{commands.TABLE} lacks the way of Freeze")
    (found,) = commands.missing_parts(tmp_path, FREEZE_WAYS | {"Thaw": Way("streams/cashier/thawing.py")})
    assert found.startswith(f"{commands.TABLE} lacks a route or a CLI command of Thaw")
    (found,) = commands.missing_parts(tmp_path, FREEZE_WAYS | {"Melt": Way("", why_none="-")})
    assert found == f"{commands.TABLE} has a way of Melt, which is no command"


def test_contributing_lists_what_the_check_of_commands_knows_and_options_that_exist() -> None:
    text = (PROJECT_ROOT / "CONTRIBUTING.md").read_text()
    parts = [commands.SHAPES, commands.DECISIONS, commands.RULES, commands.MODEL, commands.CLIENTS, commands.DOCUMENT]
    assert [part for part in (*parts, commands.TABLE) if part not in text] == []
    options = set(re.findall(r"meterline test (--\w+)", text))
    assert options and options <= set(re.findall(r"--\w+", (PROJECT_ROOT / "api" / "cli" / "test.py").read_text()))


def test_processes_start_without_the_operators_half_of_the_command_line() -> None:
    program = (
        "import sys; from api.cli.main import app\n"
        "for name in sys.argv[1:]: app([name, '--help'], standalone_mode=False)\n"
        "print('===', *sys.modules)"
    )
    processes = ["worker", "api", "historian", "cashier", "courier"]
    done = subprocess.run([sys.executable, "-c", program, *processes], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("===")[2].split())
    assert {name for name in loaded if name.startswith("api.cli.")} == {
        "api.cli.main",
        "api.cli.output",
        "api.cli.processes",
    }
    assert not loaded & {"httpx", "faust", "fastapi", "chdb", "rocksdict", "clickhouse_connect"}
