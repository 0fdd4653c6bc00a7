"""Usage events: the CloudEvent that a producer sends, the usage it becomes when accepted, the dead letter otherwise."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

QUANTITY_MAX = 10_000
METADATA_KEYS_MAX = 32
METADATA_VALUE_CHARS_MAX = 512
EVENTS_PER_RECORD_MAX = 10_000
# No usage event is as short as this.
EVENT_BYTES_MIN = 64
# Nor, in the packed form, as short as this.
PACKED_EVENT_BYTES_MIN = 24
# The `type` of the events that our own producers make.
EVENT_TYPE = "dev.meterline.usage"
# Of (project, source, id).
HASH_BYTES = 16
EVENT_AGE_DAYS_MAX = 31
EVENT_AHEAD_MINUTES_MAX = 10

# The end of the year 2261, which is as far as ClickHouse and Python's datetime both go.
TIME_MS_MAX = 9_214_646_399_999

PROJECT_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"

Name = Annotated[str, Meta(min_length=1, max_length=256)]
ProjectId = Annotated[str, Meta(min_length=1, max_length=64, pattern=PROJECT_ID_PATTERN)]
Quantity = Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]
Environment = Literal["production", "preview"]
# The operation that is billed beside another one, or "".
Surcharge = Literal["", "social_post.image", "social_post.video"]
# Numbers are bounded as text is: an integer has 64 bits, so that whoever reads it has room for it.
MetadataNumber = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
MetadataValue = Annotated[str, Meta(max_length=METADATA_VALUE_CHARS_MAX)] | MetadataNumber | float | bool | None
Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], MetadataValue], Meta(max_length=METADATA_KEYS_MAX)
]


class UsageData(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The `data` of a usage event. A field that is not listed here is an error: a misspelt quantity must not bill 1."""

    operation: Name
    quantity: Quantity | None = None
    target_languages: Quantity | None = None
    attempts: Quantity | None = None
    networks: Quantity | None = None
    tier: Literal["budget", "premium"] | None = None
    media_type: Literal["none", "image", "video"] | None = None
    environment: Environment | None = None
    job_id: Annotated[str, Meta(max_length=128)] | None = ""
    metadata: Metadata | None = {}


class UsageEvent(msgspec.Struct, omit_defaults=True, gc=False):
    """A CloudEvents 1.0 usage event in JSON; `subject` is the project. Extension attributes are allowed and ignored.

    (source, id) identifies the event within its project. `time` defaults to its arrival. An attribute that is null is
    one that is not set.
    """

    specversion: Literal["1.0"]
    id: Name
    source: Name
    type: Name
    # The subject is a ProjectId. Its pattern is checked after decoding: here it would take as long as all the rest.
    subject: Annotated[str, Meta(min_length=1, max_length=64, extra_json_schema={"pattern": PROJECT_ID_PATTERN})]
    data: UsageData
    time: str | None = ""
    datacontenttype: str | None = ""


class PackedUsage(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """A usage event in the packed form that KafkaProducer sends, which has read, metered and timed it.

    Its bounds are those of UsageEvent. `occurred_at_ms` is None where the event bears no time: it is that of arrival.
    """

    # The pattern of a project id is checked after decoding, as UsageEvent's is.
    project: Annotated[str, Meta(min_length=1, max_length=64)]
    source: Name
    event_id: Name
    operation: Name
    quantity: Quantity
    surcharge: Surcharge
    environment: Environment
    occurred_at_ms: int | None
    job_id: Annotated[str, Meta(max_length=128)]
    metadata: Metadata


class Usage(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An accepted usage event: the parts of it that may change an account, and nothing else.

    `dedup_hash` is 16 bytes over (project, source, id). `surcharge` is an operation billed beside the first, in the
    same quantity, or "". `metadata` is a JSON object as text, or "".
    """

    project: str
    dedup_hash: Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
    source: str
    event_id: str
    operation: str
    quantity: int
    surcharge: str
    environment: str
    occurred_at_ms: int
    job_id: str
    key_id: str
    metadata: str


class DeadLetter(msgspec.Struct, omit_defaults=True):
    """An event that was refused before it could change an account, as JSON on the dead-letter topic.

    (topic, partition, offset, index) names it for good, so a repeat of it is recognised. `event` is the event's text,
    cut at 16 KiB.
    """

    code: str
    detail: str
    topic: str
    partition: Annotated[int, Meta(ge=0, lt=1 << 16)]
    offset: Annotated[int, Meta(ge=0)]
    index: Annotated[int, Meta(ge=0, lt=1 << 32)]
    received_at_ms: Annotated[int, Meta(ge=0, le=TIME_MS_MAX)]
    event: str
    field: str = ""
