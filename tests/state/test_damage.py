"""Damaged files are set aside and begun anew, at whatever call they show it. A disk that can't serve is no damage."""

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from streams.core.marks import Claim
from streams.state.damage import KEPT_MAX, DamagedError, StateError, is_damage, opened
from streams.state.rocks import PartitionFile, SegmentedFile, VersionedFile
from streams.worker.tables import seen_file, seen_rows

ROWS = 3_000
DAYS = range(1_000, 1_020)


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def accounts(path: Path) -> VersionedFile:
    return VersionedFile(path)


def segments(path: Path) -> SegmentedFile:
    return seen_file(path, 32)


def fill_accounts(path: Path) -> dict[bytes, bytes]:
    """Write a file of accounts in three tables; gives what is in it."""
    rng = random.Random(1)
    rows = {key(number): bytes(8) + rng.randbytes(60) for number in range(ROWS)}
    file = accounts(path)
    for part in range(3):
        file.write(list(rows.items())[part::3], part)
        file.flush()
    file.close()
    return rows


def fill_segments(path: Path) -> dict[bytes, bytes]:
    """Write three segments, the older ones in parts; gives what is in them."""
    rows: dict[bytes, bytes] = {}
    file = segments(path)
    for offset, day in enumerate(DAYS):
        some = dict(seen_rows({key(day * 1000 + number): Claim(number) for number in range(100)}, day))
        rows |= some
        file.write(list(some.items()), offset)
    file.close()
    return rows


KINDS: dict[str, tuple[Callable[[Path], PartitionFile | SegmentedFile], Callable[[Path], dict[bytes, bytes]]]] = {
    "accounts": (accounts, fill_accounts),
    "seen": (segments, fill_segments),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[bytes, bytes]]]:
    """A sound file of each kind, with its rows; tests damage copies."""
    directory = tmp_path_factory.mktemp("sound")
    return {kind: (directory / kind, fill(directory / kind)) for kind, (_, fill) in KINDS.items()}


def databases(path: Path) -> list[Path]:
    """The directories of RocksDB under a path, oldest first."""
    return sorted(each.parent for each in path.rglob("CURRENT"))


def tables(path: Path) -> list[Path]:
    return sorted(databases(path)[0].glob("*.sst"))


def manifest(path: Path) -> Path:
    return max(databases(path)[0].glob("MANIFEST-*"))


def overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 0xFF
    path.write_bytes(content)


def replace_by_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"garbage")


def unreadable_offset(path: Path) -> None:
    from streams.state.rocks import _NO_LOG, _OFFSET_KEY, Rdict, WriteBatch, _options

    for database in databases(path):
        db = Rdict(str(database), options=_options(False))
        batch = WriteBatch(raw_mode=True)
        batch.put(_OFFSET_KEY, b"-12")
        db.write(batch, _NO_LOG)
        db.close()


# What is done to a sound copy, and whether it shows at the opening.
DAMAGES: dict[str, Callable[[Path], None]] = {
    "CURRENT is gone": lambda path: (databases(path)[0] / "CURRENT").unlink(),
    "CURRENT is empty": lambda path: overwrite(databases(path)[0] / "CURRENT", b""),
    "CURRENT is garbage": lambda path: overwrite(databases(path)[0] / "CURRENT", b"garbage\n"),
    "the manifest is gone": lambda path: manifest(path).unlink(),
    "the manifest is empty": lambda path: overwrite(manifest(path), b""),
    "the manifest is garbled": lambda path: flip(manifest(path), 60),
    "a table is gone": lambda path: tables(path)[0].unlink(),
    "a table is empty": lambda path: overwrite(tables(path)[0], b""),
    "a table is cut": lambda path: overwrite(tables(path)[0], tables(path)[0].read_bytes()[:-100]),
    "a table is garbage": lambda path: overwrite(tables(path)[0], os.urandom(tables(path)[0].stat().st_size)),
    "a table has a wrong byte in its rows": lambda path: flip(tables(path)[0], 200),
    "a table has a wrong byte in its end": lambda path: flip(tables(path)[0], -5),
    "a file stands in its place": replace_by_file,
    "the changelog offset can't be read": unreadable_offset,
}


def read_all(file: PartitionFile | SegmentedFile, rows: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """All rows, by look-up and by going through, which must agree."""
    found = {name: value for name, value in zip(rows, file.get_many(list(rows)), strict=True) if value is not None}
    assert found == dict(file.items())
    return found


def reading(kind: str, path: Path, rows: dict[bytes, bytes]) -> tuple[dict[bytes, bytes], int | None, int]:
    """The rows and the offset that a process comes to that is started again each time it meets damage; and how often it
    was started."""
    for starts in range(1, 4):
        file = opened(KINDS[kind][0], path)
        try:
            return read_all(file, rows), file.changelog_offset(), starts
        except DamagedError:
            continue
        finally:
            file.close()
    raise AssertionError("it loops")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_set_aside_and_begun_anew(
    kind: str,
    damage: str,
    filled: dict[str, tuple[Path, dict[bytes, bytes]]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sound, rows = filled[kind]
    path = tmp_path / kind
    shutil.copytree(sound, path)
    DAMAGES[damage](path)
    assert reading(kind, path, rows)[:2] == ({}, None)
    assert len(list(tmp_path.glob(f"{kind}.damaged-*"))) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.name == "streams.state.damage"]
    assert str(path) in line and "rebuilt from Kafka" in line and "\n" not in line


def test_a_segment_that_is_gone_or_older_than_the_noted_offset_takes_the_others_with_it(
    filled: dict[str, tuple[Path, dict[bytes, bytes]]], tmp_path: Path
) -> None:
    """The offset stands in the newest segment, and recovery would never read again what an older one has lost."""
    sound, rows = filled["seen"]
    emptied, gone = tmp_path / "emptied", tmp_path / "gone"
    for path in (emptied, gone):
        shutil.copytree(sound, path)
        shutil.rmtree(databases(path)[0])
    next(iter(sorted(gone.iterdir()))).with_name("100").mkdir(exist_ok=True)
    databases_of_sound = [each.name for each in databases(sound)]
    (emptied / databases_of_sound[0]).mkdir()
    for path in (emptied, gone):
        assert reading("seen", path, rows)[:2] == ({}, None)
        assert list(tmp_path.glob(f"{path.name}.damaged-*"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(int(os.environ.get("METERLINE_DAMAGE_SEEDS", "10"))))
def test_random_damage_never_gives_wrong_rows_and_never_loops(
    kind: str, seed: int, filled: dict[str, tuple[Path, dict[bytes, bytes]]], tmp_path: Path
) -> None:
    """Flips and cuts anywhere. What is read is what was written up to the noted offset, or nothing and no offset."""
    sound, rows = filled[kind]
    path, rng = tmp_path / kind, random.Random(seed)
    shutil.copytree(sound, path)
    files = [each for each in sorted(path.rglob("*")) if each.is_file() and each.name not in ("LOG", "LOCK")]
    for _ in range(rng.randint(1, 3)):
        target = rng.choice(files)
        content = bytearray(target.read_bytes())
        if rng.random() < 0.5:
            content = content[: rng.randint(0, len(content))]
        elif content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        target.write_bytes(content)
    found, offset, _ = reading(kind, path, rows)
    assert found.items() <= rows.items()
    if offset is None:
        assert found == {}
    elif kind == "accounts":
        assert len(found) >= sum(len(list(rows)[part::3]) for part in range(offset + 1))
    else:
        assert len(found) >= 100 * (offset + 1)


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "EMFILE", "ENFILE", "ENOMEM"])
def test_what_the_system_refuses_is_no_damage(name: str) -> None:
    told = os.strerror(getattr(errno, name))
    assert not is_damage(Exception(f"IO error: {told}: While appending to file: /data/000012.sst: {told}"))
    assert not is_damage(Exception(f"Corruption: Corruption: IO error: {told}: While open a file: /data/000012.sst"))


def test_a_directory_that_another_process_has_open_is_left_where_it_is(tmp_path: Path) -> None:
    file = accounts(tmp_path / "p")
    with pytest.raises(StateError, match="LOCK"):
        accounts(tmp_path / "p")
    file.close()
    assert not list(tmp_path.glob("*.damaged-*"))


def test_a_full_disk_leaves_the_state_where_it_is(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the system says so in the same way, at the same calls."""
    import resource
    import signal

    file = accounts(tmp_path / "p")
    file.write([(b"sound", bytes(8))], 1)
    file.flush()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    try:
        with pytest.raises(StateError, match="File too large"):
            for number in range(100):
                file.write([(key(number), os.urandom(4096))], number)
                file.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
        file.close()
    assert not list(tmp_path.glob("*.damaged-*"))
    again = accounts(tmp_path / "p")
    assert again.get_many([b"sound"]) == [bytes(8)]
    again.close()


def test_few_damaged_copies_are_kept(tmp_path: Path) -> None:
    for _ in range(KEPT_MAX + 3):
        path = tmp_path / "p"
        path.write_bytes(b"garbage")
        opened(accounts, path).close()
        shutil.rmtree(path)
    assert len(list(tmp_path.glob("p.damaged-*"))) == KEPT_MAX
