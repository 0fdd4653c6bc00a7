"""METERLINE_KAFKA_URL with SASL and TLS makes every process of the stack use an existing cluster."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
import trustme

from api.stack import Stack
from streams.embedded import broker as broker_module
from streams.embedded import lifeline
from streams.settings import Settings
from tests.calls import Operator
from tests.conftest import SESSION_TIMEOUT_SECONDS

PASSWORD = "correct-horse-battery"


@pytest.fixture
def secured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A Kafka that is not Meterline's: it takes TLS with a user and password on a port of its own."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems).decode().strip()
    key = certificate.private_key_pem.bytes().decode()
    if "BEGIN RSA" in key or "BEGIN EC" in key:
        from cryptography.hazmat.primitives import serialization

        loaded = serialization.load_pem_private_key(key.encode(), None)
        key = loaded.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
    (tmp_path / "server.pem").write_text(key + chain)
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    port = lifeline.free_port()
    monkeypatch.setattr(
        broker_module,
        "SERVER_PROPERTIES",
        broker_module.SERVER_PROPERTIES.replace(
            "listeners=CLIENT://", f"listeners=SECURE://127.0.0.1:{port},CLIENT://", 1
        )
        .replace("advertised.listeners=", f"advertised.listeners=SECURE://127.0.0.1:{port},", 1)
        .replace("protocol.map=", "protocol.map=SECURE:SASL_SSL,")
        + f"""\
sasl.enabled.mechanisms=PLAIN
listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_meter="{PASSWORD}";
ssl.keystore.type=PEM
ssl.keystore.location={tmp_path / "server.pem"}
""",
    )
    with broker_module.EmbeddedBroker(tmp_path / "theirs", Settings().cache_dir):
        yield f"127.0.0.1:{port}", tmp_path / "ca.pem"


def running_brokers() -> set[int]:
    children = psutil.Process().children(recursive=True)
    found = set()
    for child in children:
        # A process that has just ended has no command line any more.
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "kafka.Kafka" in child.cmdline():
                found.add(child.pid)
    return found


def test_sasl_and_tls_reach_every_client(secured: tuple[str, Path], tmp_path: Path) -> None:
    url, authority = secured
    settings = Settings(
        data_dir=tmp_path / "ours",
        api_port=0,
        clickhouse_front_port=0,
        kafka_url=url,
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_username="meter",
        kafka_sasl_password=PASSWORD,
        kafka_ssl_cafile=authority,
        session_timeout_seconds=SESSION_TIMEOUT_SECONDS,
    )
    brokers = running_brokers()
    with Stack(settings) as stack:
        assert running_brokers() == brokers, "no broker of our own was started"
        _, client = Operator(stack).customer()
        assert client.post("/v1/admissions", json={"operation": "website"}).json()["available"] == "10"
        assert httpx.get(f"{stack.url}/readyz").status_code == 200
        for log in stack.logs_dir.glob("*.log"):
            assert PASSWORD not in log.read_text()
