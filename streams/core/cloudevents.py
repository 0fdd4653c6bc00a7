"""CloudEvents in binary mode: attributes come beside the data, in headers, as the SDKs send them by HTTP and on Kafka.

Source: CloudEvents 1.0, HTTP protocol binding and Kafka protocol binding, "Binary Content Mode".
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from urllib.parse import unquote

import msgspec

from schemas.events import UsageEvent
from schemas.problems import Rejection
from streams.core.acceptance import ANYONE, Accepted, Origin, to_usage, unprocessable
from streams.core.foreign import UnreadableError, decoded, read

HTTP_PREFIX = "ce-"
KAFKA_PREFIX = "ce_"
STRUCTURED = "application/cloudevents"
ATTRIBUTES_MAX = 64

Attributes = Mapping[str, str]

_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_decode_event = msgspec.json.Decoder(UsageEvent).decode
_encode = msgspec.json.Encoder().encode


def http_attributes(headers: Iterable[tuple[bytes, bytes]]) -> Attributes | None:
    """The attributes in the headers of a request, whose names are in lower case; None where it is not in binary mode.

    Raises Rejection where an attribute is given twice, or is not percent-encoded UTF-8.
    """
    return _attributes(((name.decode("latin-1"), value) for name, value in headers), HTTP_PREFIX)


def kafka_attributes(headers: Iterable[tuple[str, bytes]]) -> Attributes | None:
    """The attributes in the headers of a Kafka record; None where it is not in binary mode.

    Raises Rejection where an attribute is given twice, or is not UTF-8.
    """
    return _attributes(headers, KAFKA_PREFIX)


def accept_binary(
    attributes: Attributes, data: bytes, now_ms: int, operations: Container[str], origin: Origin = ANYONE
) -> Accepted:
    """Read one event in binary mode. Returns it as good, or as bad with its bytes and Rejection, as `accept_record`
    does."""
    try:
        # One JSON value, of which nothing is made yet: then the event is decoded as if it had come in one piece.
        decoded(_decode_raw, data)
        return [to_usage(decoded(_decode_event, _joined(attributes, data)), now_ms, operations, origin)], []
    except Rejection as rejection:
        return [], [(0, _told(attributes, data), rejection)]
    except MemoryError:
        raise
    except Exception as error:
        return [], [(0, _told(attributes, data), unprocessable(error))]


def _attributes(headers: Iterable[tuple[str, bytes]], prefix: str) -> Attributes | None:
    found: dict[str, str] = {}
    is_binary = False
    for name, value in headers:
        name = name.lower()
        if name == "content-type":
            if value.lstrip().lower().startswith(STRUCTURED.encode()):
                return None
            found["datacontenttype"] = value.decode("latin-1")
        elif name.startswith(prefix):
            attribute = name.removeprefix(prefix)
            is_binary = is_binary or attribute == "specversion"
            if attribute in found or len(found) > ATTRIBUTES_MAX:
                raise Rejection("invalid_event", f"`{attribute[:64]}` is one attribute too many", attribute[:64])
            found[attribute] = _text(attribute, value, prefix)
    return found if is_binary else None


def _text(attribute: str, value: bytes, prefix: str) -> str:
    try:
        return read(_decode_http_value if prefix == HTTP_PREFIX else bytes.decode, value)
    except UnreadableError:
        encoded = "percent-encoded UTF-8" if prefix == HTTP_PREFIX else "UTF-8"
        raise Rejection("invalid_event", f"`{attribute[:64]}` is not {encoded}", attribute[:64]) from None


def _decode_http_value(value: bytes) -> str:
    return unquote(value.decode("ascii"), errors="strict")


def _told(attributes: Attributes, data: bytes) -> bytes:
    """The event as its dead letter shows it: as text in structured mode, that can be sent again."""
    try:
        read(_decode_raw, data)
        return _joined(attributes, data)
    except UnreadableError:
        return _encode({**attributes, "data": data.decode("utf-8", "replace")})


def _joined(attributes: Attributes, data: bytes) -> bytes:
    """The event in structured mode; there is one attribute at least, `specversion`."""
    return _encode(attributes)[:-1] + b',"data":' + data + b"}"
