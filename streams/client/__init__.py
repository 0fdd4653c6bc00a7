"""The client: the one import for a service that embeds Meterline. It has producers, admissions and the gateway."""

from streams.client.admissions import Admissions, Decision, MeterlineAway
from streams.client.away import Away
from streams.client.gateway import Gateway, Route
from streams.client.http_admissions import HttpAdmissions
from streams.client.kafka_admissions import KafkaAdmissions
from streams.client.producer import HttpProducer, KafkaProducer, usage_event

__all__ = [
    "Admissions",
    "Away",
    "Decision",
    "Gateway",
    "HttpAdmissions",
    "HttpProducer",
    "KafkaAdmissions",
    "KafkaProducer",
    "MeterlineAway",
    "Route",
    "usage_event",
]
