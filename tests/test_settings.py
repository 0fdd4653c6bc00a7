"""Variables that no setting has are named with the nearest that one has, and those of Kubernetes are told apart."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from streams.settings import Settings, remedy_of, unknown_variables
from tests.command_line import Meterline
from tests.tidy.documents import _READ_BY_CODE
from tests.tidy.sources import EVERYWHERE, sources

KNOWN = sorted(f"METERLINE_{name.upper()}" for name in Settings.model_fields)


def told(**environment: str) -> list[str]:
    return list(unknown_variables(environment))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("METERLINE_KAFKA_ULR", "METERLINE_KAFKA_URL"),
        ("METERLINE_LOGLEVEL", "METERLINE_LOG_LEVEL"),
        ("meterline_partition", "METERLINE_PARTITIONS"),
        ("METERLINE_ADMIN_KEY_HASH", "METERLINE_ADMIN_KEY_HASHES"),
        ("METERLINE_KAFKA_PORTS", "METERLINE_KAFKA_PORT"),
    ],
)
def test_a_misspelt_setting_is_named_with_the_one_that_was_meant(given: str, meant: str) -> None:
    assert told(**{given: "x"}) == [f"{given} is no setting, and is passed over: did you mean {meant}?"]


@pytest.mark.parametrize("name", KNOWN)
def test_a_letter_that_is_left_out_leads_to_a_setting_and_a_setting_itself_is_not_told(name: str) -> None:
    assert told(**{name: "x"}) == []
    shorter = name[:-2] + name[-1]
    if shorter not in KNOWN:
        (sentence,) = told(**{shorter: "x"})
        nearest = sentence.rpartition("did you mean ")[2].removesuffix("?")
        assert nearest in KNOWN
        ratio = difflib.SequenceMatcher(None, shorter, nearest).ratio
        assert ratio() >= difflib.SequenceMatcher(None, shorter, name).ratio() - 0.1


def test_what_is_like_no_setting_is_told_where_they_are_listed() -> None:
    assert told(METERLINE_ZZZZZZ="x") == [
        "METERLINE_ZZZZZZ is no setting, and is passed over: docs/operators.md lists those that one sets"
    ]


def test_variables_that_tests_and_child_processes_read_are_known() -> None:
    read = {name for file in sources(Path(), *EVERYWHERE) for name in _READ_BY_CODE.findall(file.text)}
    examples = {"METERLINE_SEED"}  # of a test's own text
    assert told(**dict.fromkeys(read - examples, "1")) == []


SERVICES = ("METERLINE", "METERLINE_API", "METERLINE_CLICKHOUSE_FRONT", "METERLINE_WORKER_METRICS")


@pytest.mark.parametrize("service", SERVICES)
def test_what_kubernetes_sets_for_a_service_of_ours_is_not_unknown(service: str) -> None:
    variables = {
        f"{service}_SERVICE_HOST": "10.0.0.11",
        f"{service}_SERVICE_PORT": "8000",
        f"{service}_SERVICE_PORT_HTTP": "8000",
        f"{service}_PORT": "tcp://10.0.0.11:8000",
        f"{service}_PORT_8000_TCP": "tcp://10.0.0.11:8000",
        f"{service}_PORT_8000_TCP_PROTO": "tcp",
        f"{service}_PORT_8000_TCP_PORT": "8000",
        f"{service}_PORT_8000_TCP_ADDR": "10.0.0.11",
        f"{service}_PORT_53_UDP": "udp://10.0.0.11:53",
    }
    assert told(**variables) == []


@pytest.mark.parametrize("name", [name for name in KNOWN if name.endswith("_PORT")])
def test_a_port_that_kubernetes_set_is_refused_with_the_remedy(name: str, meterline: Meterline) -> None:
    done = meterline("doctor", **{name: "tcp://10.0.0.11:8000"})
    service = name.removesuffix("_PORT").lower().replace("_", "-")
    assert done.returncode == 2
    assert f"for the service {service}: set {name} itself in the pod" in done.stderr
    assert remedy_of(name, "eighty") == ""


@pytest.mark.parametrize(("command", "code"), [("topics", 1), ("worker", 1), ("doctor", 1)])
def test_every_command_and_process_tells_of_an_unknown_variable_once(
    command: str, code: int, meterline: Meterline, tmp_path: Path
) -> None:
    where = {"METERLINE_DATA_DIR": str(tmp_path), "METERLINE_KAFKA_URL": "127.0.0.1:1"}
    done = meterline(command, **where, METERLINE_KAFKA_ULR="x")
    assert done.returncode == code
    assert done.stderr.count("did you mean METERLINE_KAFKA_URL?") == 1
