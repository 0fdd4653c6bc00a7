"""docker-compose.yml agrees with Meterline's settings, commands and files; checked without a container engine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tomllib
import xml.etree.ElementTree as ElementTree
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from api.callers.keys import admin_of, new_admin_key
from api.cli.main import COMMANDS
from streams.clickhouse.migrations import MIGRATIONS_DIR
from streams.settings import PROJECT_ROOT, Settings

COMPOSE_PATH = PROJECT_ROOT / "docker-compose.yml"
# Laid over it.
CLUSTER_PATH = PROJECT_ROOT / "clickhouse" / "cluster" / "docker-compose.yml"
ADMIN_KEY, ADMIN_HASH = new_admin_key()
GIVEN = {
    "METERLINE_CLICKHOUSE_PASSWORD": "s3cret",
    "METERLINE_GRAFANA_PASSWORD": "of-grafana",
    "METERLINE_WEBHOOK_KEY": "of-webhooks-" * 3,
    "METERLINE_SESSION_KEY": "of-sessions-" * 3,
    "METERLINE_ADMIN_KEY_HASHES": f'["{ADMIN_HASH}"]',
}

# The command that each service runs.
ROLES = {
    "topics": "topics",
    "migrate": "migrate",
    "worker-1": "worker",
    "worker-2": "worker",
    "historian": "historian",
    "cashier": "cashier",
    "courier": "courier",
    "api": "api",
    "grafana-user": "analysts add grafana --rotate --password-from METERLINE_GRAFANA_PASSWORD",
}
ONE_SHOTS = {"topics", "migrate", "grafana-user"}
WITHOUT_CLICKHOUSE = {"topics", "worker-1", "worker-2", "cashier", "courier"}

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def filled(value: Any) -> Any:
    """A value with its `${...}` replaced as compose does it. A KeyError names a variable without value and default."""
    if isinstance(value, dict):
        return {key: filled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each) for each in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(lambda match: match[3] if match[2] == "-" else GIVEN[match[1]], value)


TEXT = COMPOSE_PATH.read_text()
SERVICES: dict[str, dict[str, Any]] = filled(yaml.safe_load(TEXT))["services"]


def laid_over(below: Any, above: Any) -> Any:
    """Two files' values as compose puts them together: maps merged, lists appended, and else the later one's."""
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {name: laid_over(below[name], each) if name in below else each for name, each in above.items()}
    return [*below, *above] if isinstance(below, list) and isinstance(above, list) else above


def settings_of(service: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"METERLINE_{name.upper()}", raising=False)
    for name, value in SERVICES[service]["environment"].items():
        monkeypatch.setenv(name, value)
    return Settings()


def dockerfile() -> list[list[str]]:
    """The inline Dockerfile's instructions, split into words."""
    text = SERVICES["api"]["build"]["dockerfile_inline"].replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line and not line.startswith("#")]


def named_volume(service: str) -> tuple[str, str]:
    (volume,) = [each for each in SERVICES[service]["volumes"] if not each.startswith("./")]
    name, path = volume.split(":")
    return name, path


def test_every_service_is_a_server_or_a_role_of_the_command_line() -> None:
    assert set(SERVICES) == {"kafka", "clickhouse", "grafana", *ROLES}
    for service, command in ROLES.items():
        assert SERVICES[service]["command"] == command.split()
        assert command.split()[0] in COMMANDS


@pytest.mark.parametrize("service", ROLES)
def test_a_services_environment_is_valid_settings(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = SERVICES[service]["environment"]
    # Settings pass over a name they do not know, and compose refuses a value that YAML takes for a boolean.
    known = {f"METERLINE_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in environment if name not in ROLES[service].split()} <= known
    assert all(isinstance(value, str) for value in environment.values())
    settings = settings_of(service, monkeypatch)
    assert settings.partitions == 12
    assert settings.kafka_url == "kafka:9092"
    expected_url = None if service in WITHOUT_CLICKHOUSE else "http://meterline:s3cret@clickhouse:8123/meterline"
    assert settings.clickhouse_url == expected_url


def test_the_two_workers_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [settings_of(service, monkeypatch) for service in ("worker-1", "worker-2")]
    assert [each.worker_name for each in settings] == ["worker-1", "worker-2"]


def test_what_keeps_state_keeps_it_in_a_volume_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stateful = ["kafka", "clickhouse", "worker-1", "worker-2", "cashier", "courier", "api", "grafana"]
    names = [named_volume(service)[0] for service in stateful]
    assert set(names) == set(yaml.safe_load(TEXT)["volumes"])
    assert len(set(names)) == len(stateful)
    for service in ("worker-1", "worker-2", "cashier", "courier", "api"):
        assert str(settings_of(service, monkeypatch).data_dir) == named_volume(service)[1]


def test_the_api_is_published_on_the_loopback_address_and_takes_the_operators_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of("api", monkeypatch)
    assert SERVICES["api"]["ports"] == [f"127.0.0.1:8080:{settings.api_port}"]
    assert settings.api_host == "0.0.0.0"
    assert admin_of(ADMIN_KEY, settings.admins, settings.admin_key_hashes) is not None
    assert SERVICES["grafana"]["ports"] == ["127.0.0.1:3000:3000"]
    assert not any("ports" in body for service, body in SERVICES.items() if service not in ("api", "grafana"))


def test_money_is_only_pretended_unless_stripe_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("cashier", monkeypatch)
    assert (settings.payments, settings.stripe_secret_key) == ("local", None)
    for name, body in SERVICES.items():
        assert ("METERLINE_STRIPE_SECRET_KEY" in body.get("environment", {})) == (name == "cashier")


def test_no_secret_has_a_default() -> None:
    for name in GIVEN:
        uses = [match for match in _VARIABLE.finditer(TEXT + CLUSTER_PATH.read_text()) if match[1] == name]
        assert uses and all(match[2] == "?" and match[3] for match in uses)
    assert SERVICES["clickhouse"]["environment"]["CLICKHOUSE_PASSWORD"] == "s3cret"


def test_services_wait_for_what_they_need() -> None:
    for service, body in SERVICES.items():
        for other, how in body.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in ONE_SHOTS else "service_healthy"
            assert how == {"condition": expected}, f"{service} waits for {other}"
            assert other in ONE_SHOTS or "healthcheck" in SERVICES[other]
    for service in ROLES.keys() - ONE_SHOTS:
        assert "topics" in SERVICES[service]["depends_on"]
        assert service in WITHOUT_CLICKHOUSE or "migrate" in SERVICES[service]["depends_on"]


def test_every_server_and_whatever_the_api_can_see_has_a_check_of_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"worker-1": "worker", "worker-2": "worker", "historian": "history"}
    for service, part in parts.items():
        assert SERVICES[service]["healthcheck"]["test"] == ["CMD", "/app/.venv/bin/meterline", "ready", part]
        assert "ready" in COMMANDS
        assert settings_of(service, monkeypatch).api_url == f"http://api:{settings_of('api', monkeypatch).api_port}"
    assert "/readyz" in SERVICES["api"]["healthcheck"]["test"][-1]
    # A cashier or a courier that is away keeps nothing from being decided; its supervisor starts it again.
    assert {name for name in SERVICES if "healthcheck" not in SERVICES[name]} == ONE_SHOTS | {"cashier", "courier"}


def test_the_figures_are_for_the_network_of_the_services_and_not_for_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("api", monkeypatch)
    assert (settings.metrics_host, settings.metrics_port) == ("0.0.0.0", 9464)
    assert not any(str(settings.metrics_port) in port for port in SERVICES["api"]["ports"])


def test_what_should_run_is_started_again_and_what_is_done_is_not() -> None:
    for service, body in SERVICES.items():
        assert body["restart"] == ("no" if service in ONE_SHOTS else "unless-stopped")
        assert body["init"] is True


def test_images_are_pinned_and_every_role_runs_the_same_one() -> None:
    assert SERVICES["kafka"]["image"] == "apache/kafka:4.1.0"
    assert re.fullmatch(r"clickhouse/clickhouse-server:2[56]\.\d+(\.\d+\.\d+)?", SERVICES["clickhouse"]["image"])
    assert re.fullmatch(r"grafana/grafana:13\.\d+\.\d+", SERVICES["grafana"]["image"])
    assert all(SERVICES[role]["build"] == SERVICES["api"]["build"] for role in ROLES)
    assert {SERVICES[role]["image"] for role in ROLES} == {"meterline:local"}
    assert ["FROM", "python:3.12-slim"] in dockerfile()
    assert "latest" not in TEXT


def test_the_broker_takes_records_as_large_as_ours_and_makes_no_topic_by_itself() -> None:
    environment = SERVICES["kafka"]["environment"]
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    held_up_ms = int(environment["KAFKA_TRANSACTION_MAX_TIMEOUT_MS"])
    held_up_ms += int(environment["KAFKA_TRANSACTION_ABORT_TIMED_OUT_TRANSACTION_CLEANUP_INTERVAL_MS"])
    assert held_up_ms < 15_000
    assert int(environment["KAFKA_MESSAGE_MAX_BYTES"]) == 8 * 1024 * 1024
    assert environment["KAFKA_LOG_DIRS"] == named_volume("kafka")[1]


def test_grafana_reads_the_history_as_an_analyst_from_files_that_are_here() -> None:
    body, mounts = SERVICES["grafana"], {}
    for volume in body["volumes"]:
        here, path, *_ = volume.split(":")
        mounts[path] = COMPOSE_PATH.parent / here
        assert not here.startswith("./") or (mounts[path].is_dir() and volume.endswith(":ro"))
    provisioning = mounts["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources/meterline.yml").read_text())["datasources"]
    plugin, _, version = body["environment"]["GF_PLUGINS_PREINSTALL_SYNC"].partition("@")
    assert source["type"] == plugin and re.fullmatch(r"\d+\.\d+\.\d+", version)
    command = SERVICES["grafana-user"]["command"]
    assert source["jsonData"]["username"] == command[2]
    # Grafana writes its own environment's value there, which is the one that the user was made with.
    assert source["secureJsonData"] == {"password": f"${command[-1]}"}
    assert body["environment"][command[-1]] == SERVICES["grafana-user"]["environment"][command[-1]] == "of-grafana"
    url = urlsplit(SERVICES["api"]["environment"]["METERLINE_CLICKHOUSE_URL"])
    where = source["jsonData"]
    assert (where["protocol"], where["host"], where["port"]) == (url.scheme, url.hostname, url.port)
    assert where["defaultDatabase"] == url.path.strip("/")
    assert SERVICES["clickhouse"]["environment"]["CLICKHOUSE_DEFAULT_ACCESS_MANAGEMENT"] == "1"
    (provider,) = yaml.safe_load((provisioning / "dashboards/meterline.yml").read_text())["providers"]
    home = body["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    folder, _, name = home.rpartition("/")
    assert folder == provider["options"]["path"] and (mounts[folder] / name).is_file()


def test_the_image_holds_all_that_the_roles_need_and_runs_without_privileges() -> None:
    sources = [source for words in dockerfile() if words[0] == "COPY" for source in words[1:-1]]
    assert [source for source in sources if not (PROJECT_ROOT / source).exists()] == []
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["uv"]["build-backend"]["module-name"]
    assert {*packages, MIGRATIONS_DIR.parent.name, "uv.lock", project["project"]["readme"]} <= set(sources)
    assert set(project["project"]["license-files"]) <= set(sources)
    syncs = [words for words in dockerfile() if words[:3] == ["RUN", "uv", "sync"]]
    assert syncs and all({"--locked", "--no-dev"} <= set(words) for words in syncs)
    (user,) = [words for words in dockerfile() if words[0] == "USER"]
    assert user[1] not in ("root", "0")


def test_the_cluster_has_three_replicas_that_know_each_other_and_everyone_who_asks_knows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    services = laid_over(SERVICES, filled(yaml.safe_load(CLUSTER_PATH.read_text()))["services"])
    replicas = ["clickhouse", "clickhouse-2", "clickhouse-3"]
    assert set(services) == {*SERVICES, *replicas}
    configs, folders = set(), set()
    for number, name in enumerate(replicas, start=1):
        body = services[name]
        assert (body["image"], body["hostname"]) == (SERVICES["clickhouse"]["image"], name)
        assert body["environment"] == SERVICES["clickhouse"]["environment"] | {"REPLICA_NUMBER": str(number)}
        data, config = body["volumes"]
        folders.add(data)
        configs.add(config)
        assert body["restart"] == "unless-stopped" and f"http://{name}:8123/ping" in body["healthcheck"]["test"]
        assert name in services["migrate"]["depends_on"] or name in SERVICES["migrate"]["depends_on"]
    assert len(folders) == 3
    (config,) = configs
    here, _, mode = config.split(":")
    assert mode == "ro"
    told = ElementTree.parse(COMPOSE_PATH.parent / here).getroot()
    (cluster,) = told.findall("remote_servers/*")
    (shard,) = cluster.findall("shard")
    assert shard.findtext("internal_replication") == "true"
    for where in ("remote_servers//host", "zookeeper//host", "keeper_server//hostname"):
        assert [each.text for each in told.findall(where)] == replicas, where
    numbered = [told.find("macros/replica"), told.find("keeper_server/server_id")]
    assert [each.get("from_env") for each in numbered if each is not None] == ["REPLICA_NUMBER"] * 2
    assert [each.text for each in told.findall("keeper_server//id")] == ["1", "2", "3"]
    asking = {name for name in ROLES if "METERLINE_CLICKHOUSE_URL" in services[name]["environment"]}
    assert asking == {name for name in ROLES if "METERLINE_CLICKHOUSE_CLUSTER" in services[name]["environment"]}
    monkeypatch.setattr("tests.test_compose.SERVICES", services)
    assert {settings_of(name, monkeypatch).clickhouse_cluster for name in asking} == {cluster.tag}


def test_compose_itself_accepts_the_file_where_it_is_installed() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode != 0:
        return
    arguments = ["compose", "-f", str(COMPOSE_PATH), "-f", str(CLUSTER_PATH), "config", "-q"]
    without = {name: value for name, value in os.environ.items() if name not in GIVEN}
    done = subprocess.run([docker, *arguments], env=without | GIVEN, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    refused = subprocess.run([docker, *arguments], env=without, capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0, "it must not start without its secrets"
