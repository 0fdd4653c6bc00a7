"""The client: the one import for a service that embeds Meterline. It has producers, admissions, a gateway, webhooks.

Each name is loaded when it is first asked for: Kafka's client and Starlette need only be there for who uses them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemas.problems import Rejection
    from streams.client.admissions import Admissions, Decision, MeterlineAway
    from streams.client.arguments import ArgumentError
    from streams.client.away import Away, AwayCounts
    from streams.client.charges import Charge
    from streams.client.gateway import Gateway
    from streams.client.http_admissions import HttpAdmissions
    from streams.client.http_producer import HttpProducer
    from streams.client.kafka_admissions import KafkaAdmissions
    from streams.client.kafka_producer import KafkaProducer
    from streams.client.kafka_settings import KafkaSettings
    from streams.client.producer import EventPlace, EventRejection, Producer, ProducerError, Sent, usage_event
    from streams.client.routes import Route
    from streams.client.webhooks import WebhookError, verify_webhook

__all__ = [
    "Admissions",
    "ArgumentError",
    "Away",
    "AwayCounts",
    "Charge",
    "Decision",
    "EventPlace",
    "EventRejection",
    "Gateway",
    "HttpAdmissions",
    "HttpProducer",
    "KafkaAdmissions",
    "KafkaProducer",
    "KafkaSettings",
    "MeterlineAway",
    "Producer",
    "ProducerError",
    "Rejection",
    "Route",
    "Sent",
    "WebhookError",
    "usage_event",
    "verify_webhook",
]

# The module of each name, from this package.
_HOMES = {
    "Admissions": "admissions",
    "ArgumentError": "arguments",
    "Away": "away",
    "AwayCounts": "away",
    "Charge": "charges",
    "Decision": "admissions",
    "EventPlace": "producer",
    "EventRejection": "producer",
    "Gateway": "gateway",
    "HttpAdmissions": "http_admissions",
    "HttpProducer": "http_producer",
    "KafkaAdmissions": "kafka_admissions",
    "KafkaProducer": "kafka_producer",
    "KafkaSettings": "kafka_settings",
    "MeterlineAway": "admissions",
    "Producer": "producer",
    "ProducerError": "producer",
    "Rejection": "arguments",
    "Route": "routes",
    "Sent": "producer",
    "WebhookError": "webhooks",
    "usage_event": "producer",
    "verify_webhook": "webhooks",
}
# What has to be installed beside the client for some names, and the extra of the distribution that brings it.
_EXTRAS = {"aiokafka": "kafka", "starlette": "gateway"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise ImportError(f"{name} needs {error.name}: install meterline-client[{extra}]", name=error.name) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
