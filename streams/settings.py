"""Every setting of every Meterline process, read from the environment with the prefix METERLINE_."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import from_json
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schemas.events import EVENTS_PER_RECORD_MAX
from schemas.replies import KeptFor
from schemas.taxes import TaxRate
from schemas.times import HOUR_MS, MINUTE_MS
from streams.errors import OperatorError

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def user_data_dir() -> Path:
    """The directory of all state unless a setting says otherwise: $XDG_DATA_HOME/meterline or
    ~/.local/share/meterline."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "meterline"


def user_cache_dir() -> Path:
    """The directory of downloads: $XDG_CACHE_HOME/meterline or ~/.cache/meterline."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meterline"


InvoiceText = Annotated[str, Field(min_length=1, max_length=200)]
Role = Literal["owner", "finance", "support", "read-only"]


class Admin(BaseModel, extra="forbid"):
    """An admin is one of the operator's people: a name, which the audit shows, a role, and the hash of a key."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")
    role: Role
    key_hash: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, in hex")


# What a setting that is a list looks like, for whoever wrote something else.
_LISTS = {
    "admins": '[{"name": "ada", "role": "finance", "key_hash": "…"}]',
    "admin_key_hashes": '["…"]',
    "trusted_proxies": '["10.0.0.0/8"]',
    "webhook_networks": '["10.0.0.0/8"]',
    "invoice_issuer": '["Acme Ltd", "1 High Street, London"]',
    "invoice_taxes": '[{"name": "VAT", "percent": "19"}]',
}


class Settings(BaseSettings):
    """The settings of a process. The name of a setting has its unit, as in `tick_seconds`."""

    model_config = SettingsConfigDict(env_prefix="METERLINE_", extra="ignore")

    data_dir: Path = Field(default_factory=user_data_dir, description="State of the embedded parts and the workers")
    cache_dir: Path = Field(default_factory=user_cache_dir, description="Downloaded Kafka jars")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_json: bool = Field(False, description="One JSON object a line instead of readable text")
    log_decisions: bool = Field(
        True, description="The API logs a line for each decision and each refusal, with its request id"
    )
    log_file: Path | None = Field(
        None, description="All that the process says goes to this file, which is rotated, instead of standard error"
    )
    log_bytes_max: int = Field(
        16 * 1024 * 1024,
        ge=4096,
        description="A larger log file is renamed, and a new one begun; three old ones are kept",
    )

    kafka_url: str | None = Field(
        None, description="host:port[,host:port] of an existing cluster; unset starts the embedded broker"
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_cafile: Path | None = None
    kafka_ssl_certfile: Path | None = None
    kafka_ssl_keyfile: Path | None = None
    kafka_port: int = Field(0, ge=0, le=65535, description="Port of the embedded broker; 0 takes a free one")
    kafka_wait_seconds: float = Field(
        0.0, ge=0, description="How long a process that starts waits for a Kafka that is not there yet"
    )
    kafka_heap_mb: int = Field(512, ge=256, description="Heap of the embedded broker")

    topic_prefix: str = Field("meterline", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    partitions: int = Field(4, ge=1, le=1024, description="The same for every topic and table; fixed once created")
    replication_factor: int = Field(1, ge=1, le=9)

    clickhouse_url: str | None = Field(
        None, description="http[s]://user:password@host:port/database of a server; unset is the embedded engine"
    )
    clickhouse_cluster: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="The cluster, in ClickHouse's remote_servers, whose replicas keep the history, from the first "
        "migration on; unset for a single server",
    )
    clickhouse_front_port: int = Field(
        8123, ge=0, le=65535, description="Port of the embedded ClickHouse's HTTP front; 0 takes a free one"
    )
    clickhouse_memory_mb: int = Field(4096, ge=512, description="Most memory that the embedded ClickHouse takes in all")

    api_name: str = Field("api-1", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Its data directory's name")
    api_host: str = "127.0.0.1"
    api_port: int = Field(8080, ge=0, le=65535, description="0 takes a free port")
    metrics_host: str = Field("127.0.0.1", description="Where the API and workers have /metrics, for Prometheus")
    metrics_port: int = Field(9464, ge=0, le=65535, description="0 takes a free port")
    admins: Annotated[list[Admin], NoDecode] = Field(
        default_factory=list,
        max_length=1000,
        description="JSON list of admins, each with `name`, `role` (owner, finance, support, read-only) and `key_hash` "
        "(see `meterline keys admin --name --role`)",
    )
    admin_key_hashes: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="SHA-256, in hex, of each key of an owner without a name (see `meterline keys admin`)",
    )
    api_url: str | None = Field(
        None, description="Where the operator's commands find the API; a running `meterline up`"
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^/?#@\s]+$",
        description="Where browsers reach the API, as in https://usage.acme.example, for the links that it makes; the "
        "address that the link was asked for at, unless set",
    )
    admin_key: SecretStr | None = Field(None, description="The admin key that the operator's commands use")
    reply_timeout_seconds: float = Field(5.0, gt=0, description="How long the API waits for a decision")
    count_wait_seconds: float = Field(
        1.0, gt=0, description="How long a call waits to be counted in its project's window before it goes on uncounted"
    )
    public_requests_per_minute: int = Field(300, ge=1, description="From one address, without a valid key")
    public_burst: int = Field(600, ge=1, description="How many of those at once after a rest")
    busy_lag_ms: int = Field(
        50, ge=1, description="The API is busy while its event loop is this late; callers without a key get less then"
    )
    request_head_seconds: float = Field(10.0, gt=0, description="How long a client may take for a request's head")
    request_body_seconds: float = Field(60.0, gt=0, description="How long a client may take for a request's body")
    answer_read_seconds: float = Field(
        30.0, gt=0, description="How long a client may leave unread what was written to it"
    )
    connections_max: int = Field(8192, ge=16, description="HTTP connections of a process, in all")
    connections_per_address_max: int = Field(
        1024, ge=1, description="HTTP connections from one address; trusted proxies are not held to it"
    )
    trusted_proxies: Annotated[list[IPvAnyNetwork], NoDecode] = Field(
        default_factory=list,
        description="JSON list of addresses or networks whose X-Forwarded-For is believed; of nobody unless named",
    )
    request_body_bytes_max: int = Field(4 * 1024 * 1024, ge=1024)
    events_per_request_max: int = Field(1000, ge=1)
    events_per_record_max: int = Field(
        EVENTS_PER_RECORD_MAX, ge=1, description="Of more events a record on the usage topic has one dead letter"
    )

    query_seconds_max: float = Field(
        10.0, gt=0, le=300, description="How long the queries to the history that answer one request take together"
    )
    query_memory_mb_max: int = Field(
        512,
        ge=16,
        description="Memory that ClickHouse may use for one of them; the embedded one gives no more than 512",
    )
    query_rows_read_max: int = Field(
        500_000_000, ge=1000, le=10_000_000_000, description="Rows that ClickHouse may read for one of them"
    )
    queries_per_caller_max: int = Field(
        2, ge=1, description="Requests of one project that ask the history at once; others wait for their turn"
    )
    queries_at_once_max: int = Field(8, ge=1, le=12, description="Requests of all callers that ask the history at once")

    ledger_streams_max: int = Field(
        1000, ge=1, le=10_000, description="Live ledgers that an API process has open at once, in all"
    )
    ledger_streams_per_key_max: int = Field(50, ge=1, le=10_000, description="The same, of one key")
    stream_heartbeat_seconds: float = Field(
        15.0, ge=0.05, le=300, description="A live ledger that has nothing to tell says so this often"
    )

    ready_grace_seconds: float = Field(
        10.0, gt=0, description="How long Kafka may be silent, or no worker be there, before /readyz says so"
    )
    ready_intake_lag_seconds: float = Field(
        15.0, ge=0, description="How long an intake record, or a command, may wait before /readyz says so; 0: for ever"
    )
    ready_usage_lag_seconds: float = Field(
        300.0, ge=0, description="How long a usage record may wait before /readyz says so; 0: for ever"
    )
    ready_accounts_lag_seconds: float = Field(
        15.0, gt=0, description="How old an API's copy of the accounts may be before /readyz says so"
    )
    ready_history_still_seconds: float = Field(
        60.0, gt=0, description="How long history may write nothing while facts wait before /readyz says so"
    )

    worker_name: str = Field("worker-1", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Its data directory's name")
    worker_metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Where a worker has /healthz and /metrics, on metrics_host; nowhere unless set, 0 takes any",
    )
    courier_name: str = Field("courier-1", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Its data directory's name")
    courier_metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Where a courier has /healthz and /metrics, on metrics_host; nowhere unless set, 0 takes any",
    )
    session_timeout_seconds: float = Field(10.0, ge=1)
    stall_seconds: float = Field(
        60.0, ge=1, description="A worker ends that takes no record for this long while some wait"
    )
    clock_ahead_seconds_max: float = Field(
        300.0, gt=0, description="A worker stops at an intake record that Kafka's clock dates further ahead of its own"
    )
    batch_records_max: int = Field(64, ge=1, description="Intake records the owner folds at once")
    dedup_days: int = Field(32, ge=1, le=400)
    replies_kept_hours: int = Field(
        24, ge=1, le=9600, description="How long the answer to a request under an Idempotency-Key is kept for a repeat"
    )
    recent_replies_kept_minutes: int = Field(
        10, ge=1, le=1440, description="The same, of a request without a key: longer than its sender may ask again"
    )

    tick_seconds: float = Field(
        30.0,
        ge=0,
        description="How often a worker looks for what is due in idle projects; 0 leaves it to their next use",
    )
    price_lead_seconds: float = Field(
        60.0, ge=0, description="A price book takes effect this long after its announcement, or later"
    )

    historian_rows_max: int = Field(
        200_000, ge=1, le=1_000_000, description="Rows in one insert; larger ones are merged less often"
    )
    historian_flush_ms: int = Field(
        250, ge=10, description="Longest time a fact waits for its insert, unless more of them keep coming"
    )

    passing_facts_days: int = Field(
        400,
        ge=0,
        le=36_500,
        description="How long the history keeps facts that move no credits: requests, refusals, duplicates, and what "
        "limits on trial said; 0 is for ever",
    )

    payments: Literal["local", "stripe"] = Field(
        "local", description="Who takes the money of auto-recharge; local only pretends"
    )
    stripe_secret_key: SecretStr | None = Field(None, description="sk_… or, restricted to PaymentIntents, rk_…")
    stripe_api_base: str | None = Field(None, description="Another address than Stripe's own, for tests")

    webhook_key: SecretStr | None = Field(
        None,
        min_length=32,
        description="The secrets of webhooks follow from it, at the API and the courier; `meterline up` makes one",
    )
    webhook_networks: Annotated[list[IPvAnyNetwork], NoDecode] = Field(
        default_factory=list,
        max_length=100,
        description="JSON list of private addresses or networks that webhooks may reach, by http too; else none",
    )
    webhook_proxy: SecretStr | None = Field(
        None,
        description="http[s]://[user:password@]host:port of a forward proxy that webhooks go through; it looks their "
        "names up, and has to refuse private addresses",
    )
    session_key: SecretStr | None = Field(
        None,
        min_length=32,
        description="Signs the sessions of the dashboard, the same at all APIs; `meterline up` makes one. Unset, each "
        "API makes one when it starts",
    )
    brand_name: str = Field(
        "Meterline", min_length=1, max_length=60, description="The name that the dashboard and portals bear"
    )
    brand_logo: Path | None = Field(
        None, description="A PNG or JPEG file of at most 256 KB, which the dashboard and portals have at their head"
    )
    smtp_url: SecretStr | None = Field(
        None, description="smtp[s]://user:password@host:port of the server for email; none is sent unless set"
    )
    smtp_from: str | None = Field(None, max_length=320, description="The sender's address of email")

    invoice_issuer: Annotated[list[InvoiceText], NoDecode] = Field(
        default_factory=list,
        max_length=11,
        description="JSON list of lines: the issuer's name, then its address, tax number, and how to be reached",
    )
    invoice_taxes: Annotated[list[TaxRate], NoDecode] = Field(
        default_factory=list,
        max_length=8,
        description='JSON list of taxes that are added to invoices, as in [{"name": "VAT", "percent": "19"}], with '
        '"from_month" and "until_month" where a rate changes',
    )
    invoice_due_days: int = Field(30, ge=0, le=365, description="How long after its month an invoice is to be paid")
    invoice_memo: str = Field("", max_length=2000, description="What every invoice says: how to pay it, and thanks")
    invoice_logo: Path | None = Field(
        None, description="A PNG or JPEG file of at most 256 KB, which the page of an invoice has at its head"
    )

    @field_validator(
        "worker_metrics_port",
        "courier_metrics_port",
        "clickhouse_url",
        "clickhouse_cluster",
        "kafka_url",
        "stripe_secret_key",
        "stripe_api_base",
        "webhook_key",
        "session_key",
        "webhook_proxy",
        "smtp_url",
        "smtp_from",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator(*_LISTS, mode="before")
    @classmethod
    def _lists_are_json(cls, value: object, info: ValidationInfo) -> object:
        name = info.field_name or ""
        remedy = f"METERLINE_{name.upper()} is no JSON list; write one such as '{_LISTS.get(name)}', or leave it unset"
        if value == "":
            return []
        if isinstance(value, str):
            try:
                value = from_json(value)
            except ValueError:
                raise OperatorError(remedy) from None
        if not isinstance(value, list):
            raise OperatorError(remedy)
        return value

    @field_validator("admins", mode="after")
    @classmethod
    def _admins_differ(cls, admins: list[Admin]) -> list[Admin]:
        for what, given in (("name", [each.name for each in admins]), ("key_hash", [each.key_hash for each in admins])):
            for each in given:
                if given.count(each) > 1:
                    raise OperatorError(f"METERLINE_ADMINS has two admins of the {what} {each!r}; give each its own")
        return admins

    @model_validator(mode="after")
    def _replies_are_seen(self) -> Self:
        if self.replies_kept_hours > 24 * self.dedup_days:
            raise OperatorError(
                f"METERLINE_REPLIES_KEPT_HOURS is {self.replies_kept_hours}, more than the {self.dedup_days} days of "
                "METERLINE_DEDUP_DAYS: after those a key is not known any more"
            )
        return self

    @model_validator(mode="after")
    def _a_cluster_has_servers(self) -> Self:
        if self.clickhouse_cluster is not None and self.clickhouse_url is None:
            raise OperatorError(
                "METERLINE_CLICKHOUSE_CLUSTER names a cluster: set METERLINE_CLICKHOUSE_URL to its servers, or "
                "leave both unset"
            )
        return self

    @model_validator(mode="after")
    def _stripe_has_its_key(self) -> Self:
        if self.payments == "stripe" and self.stripe_secret_key is None:
            raise OperatorError(
                "METERLINE_PAYMENTS is stripe: set METERLINE_STRIPE_SECRET_KEY, or METERLINE_PAYMENTS=local to pretend"
            )
        return self

    @field_validator("webhook_proxy", mode="after")
    @classmethod
    def _a_proxy_is_a_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/]+/?", value.get_secret_value()):
            raise OperatorError("METERLINE_WEBHOOK_PROXY is no URL such as http://user:password@proxy.example:3128")
        return value

    @model_validator(mode="after")
    def _email_has_a_sender(self) -> Self:
        if self.smtp_url is not None and not re.fullmatch(r"[^@<>\r\n]*<?[^@\s<>]+@[^@\s<>]+>?", self.smtp_from or ""):
            raise OperatorError(
                "METERLINE_SMTP_URL is set: set METERLINE_SMTP_FROM to the address that email comes from, as in "
                "'Meterline <billing@example.com>'"
            )
        return self

    def as_environment(self) -> dict[str, str]:
        """The settings as environment variables, for a child process: its secrets are in the clear."""
        values = self.model_dump(mode="json", exclude_none=True, exclude={"admin_key"})
        for name in values:
            if isinstance(secret := getattr(self, name), SecretStr):
                values[name] = secret.get_secret_value()
        return {
            f"METERLINE_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }

    @property
    def kafka_sasl_secret(self) -> str | None:
        """The SASL password, in the clear."""
        return self.kafka_sasl_password.get_secret_value() if self.kafka_sasl_password else None

    @property
    def kept_for(self) -> KeptFor:
        """How long replies are kept."""
        return KeptFor(self.replies_kept_hours * HOUR_MS, self.recent_replies_kept_minutes * MINUTE_MS)

    @cached_property
    def worker_dir(self) -> Path:
        """The one directory that the worker of this name keeps its tables in."""
        return self.data_dir / "workers" / self.worker_name

    @cached_property
    def api_dir(self) -> Path:
        """The one directory that the API process of this name keeps its copy of the accounts in."""
        return self.data_dir / "api" / self.api_name

    @cached_property
    def courier_dir(self) -> Path:
        """The one directory that the courier of this name keeps its deliveries and its copy of the accounts in."""
        return self.data_dir / "couriers" / self.courier_name

    @cached_property
    def payments_path(self) -> Path:
        """The file that the pretended payments of `payments=local` are written in."""
        return self.data_dir / "payments.sqlite3"

    @cached_property
    def clickhouse_dir(self) -> Path:
        """The embedded ClickHouse's directory; one process may open it."""
        return self.data_dir / "clickhouse"

    @cached_property
    def front_token_path(self) -> Path:
        """The file with the token that others than the user who runs the embedded ClickHouse ask it with."""
        return self.data_dir / "clickhouse-token"


# Variables that others than Settings read: tests, the guard of child processes, and docker-compose.yml.
_READ_ELSEWHERE = frozenset(
    {
        "METERLINE_CLICKHOUSE_PASSWORD",
        "METERLINE_DAMAGE_SEEDS",
        "METERLINE_EXAMPLES",
        "METERLINE_GRAFANA_PASSWORD",
        "METERLINE_LEDGER_STEPS",
        "METERLINE_LIFELINE",
        "METERLINE_OPENAPI_EXAMPLES",
        "METERLINE_SEED_BASE",
        "METERLINE_SIMULATION_SEED",
        "METERLINE_SIMULATION_SEEDS",
        "METERLINE_WRITE_GOLDEN",
    }
)
# Kubernetes gives each pod such variables for each service of its namespace; these are of one named meterline-….
_OF_A_SERVICE = re.compile(
    r"METERLINE_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_ADDRESS_OF_A_SERVICE = re.compile(r"(?:tcp|udp|sctp)://")


def unknown_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each variable that looks like a setting and is none, with the nearest name that is one.

    Settings pass over such a variable, so what it was meant to set is left at its default.
    """
    known = {f"METERLINE_{name.upper()}" for name in Settings.model_fields}
    for name, value in sorted(environment.items()):
        upper = name.upper()
        if not upper.startswith("METERLINE_") or upper in known | _READ_ELSEWHERE or _OF_A_SERVICE.fullmatch(upper):
            continue
        if _ADDRESS_OF_A_SERVICE.match(value) and upper.endswith("_PORT"):
            continue
        nearest = difflib.get_close_matches(upper, known, 1, 0.75)
        remedy = f"did you mean {nearest[0]}?" if nearest else "docs/operators.md lists those that one sets"
        yield f"{name[:100]} is no setting, and is passed over: {remedy}"


def remedy_of(name: str, value: object) -> str:
    """The remedy for a value that a setting can't have, where it is known who gave it; "" elsewhere."""
    if not isinstance(value, str) or not _ADDRESS_OF_A_SERVICE.match(value):
        return ""
    service = name.removesuffix("_PORT").lower().replace("_", "-")
    return (
        f"Kubernetes gives it this value for the service {service}: set {name} itself in the pod, or "
        "enableServiceLinks: false, or give the service another name"
    )
