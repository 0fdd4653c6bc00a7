"""The settings of a service that reaches Meterline's Kafka itself: those of METERLINE_… that a client needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from msgspec import Meta

from streams.client.arguments import ArgumentError, SomeSeconds, check

_SHAPES = {
    "kafka_url": Annotated[str, Meta(pattern=r"^[^\s,]+:\d+(,[^\s,]+:\d+)*$")],
    "topic_prefix": Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")],
    "partitions": Annotated[int, Meta(ge=1, le=1024)],
    "reply_timeout_seconds": SomeSeconds,
    "kafka_security_protocol": Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"],
    "kafka_sasl_mechanism": Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
}
_NUMBERS = {"partitions": int, "reply_timeout_seconds": float}


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """KafkaSettings say where Meterline's Kafka is, `host:port[,host:port]`, and how its topics are laid out.

    `topic_prefix` and `partitions` have to be those of the workers. Raises ArgumentError for what can't be.
    """

    kafka_url: str
    topic_prefix: str = "meterline"
    partitions: int = 4
    reply_timeout_seconds: float = 5.0
    kafka_security_protocol: str = "PLAINTEXT"
    kafka_sasl_mechanism: str = "PLAIN"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: str | None = field(default=None, repr=False)
    kafka_ssl_cafile: Path | str | None = None
    kafka_ssl_certfile: Path | str | None = None
    kafka_ssl_keyfile: Path | str | None = None

    def __post_init__(self) -> None:
        for name, shape in _SHAPES.items():
            check(name, getattr(self, name), shape)

    @property
    def kafka_sasl_secret(self) -> str | None:
        """The SASL password, under the name that it has in every process's settings."""
        return self.kafka_sasl_password

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read METERLINE_KAFKA_URL and the others, the variables of every Meterline process. An empty one is unset.
        Raises ArgumentError, also where there is no METERLINE_KAFKA_URL."""
        variables = {each.name: environment.get(f"METERLINE_{each.name.upper()}") for each in fields(cls)}
        given: dict[str, Any] = {name: text for name, text in variables.items() if text}
        if "kafka_url" not in given:
            raise ArgumentError("METERLINE_KAFKA_URL", "it is not set; set it to host:port of Meterline's Kafka")
        for name, number in _NUMBERS.items():
            if name in given:
                try:
                    given[name] = number(given[name])
                except ValueError:
                    raise ArgumentError(f"METERLINE_{name.upper()}", f"{given[name]!r} is no number") from None
        return cls(**given)
