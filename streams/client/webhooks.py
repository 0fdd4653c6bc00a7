"""Webhooks, at who gets them: `verify_webhook` says whether one is Meterline's, and what it tells.

By Python's own hmac: a receiver needs nothing else installed. What is signed is the Standard Webhooks', so any library
of theirs verifies it too.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from streams.core.foreign import UnreadableError, read

TOLERANCE_SECONDS: Final = 300
_PREFIX: Final = "whsec_"
_KEY_BYTES_MIN: Final = 24
_DECODER: Final = msgspec.json.Decoder(dict[str, Any])


class WebhookError(ValueError):
    """A webhook that is not to be believed, or a secret that is none; the text says why. Answer it with a 4xx."""


def verify_webhook(body: bytes | str, headers: Mapping[str, str], secret: str) -> dict[str, Any]:
    """Verify a webhook by its raw body, its headers and the endpoint's secret, and give what it tells: `id`, `type`,
    `timestamp` and `data`. Give the body as it came, not parsed and written again: the signature is of its bytes.

    Raises WebhookError where a header is missing, the signature is another's, or the webhook was sent more than five
    minutes ago, or hence. Keep the ids of what you have done: a webhook may come again, with the same id.
    """
    raw = body.encode() if isinstance(body, str) else bytes(body)
    named = {name.lower(): value for name, value in headers.items()}
    missing = [each for each in ("webhook-id", "webhook-timestamp", "webhook-signature") if not named.get(each)]
    if missing:
        raise WebhookError(f"The header {missing[0]} is missing: is this from Meterline?")
    sent = named["webhook-timestamp"]
    if not (sent.isascii() and sent.isdigit() and len(sent) < 12):
        raise WebhookError("The header webhook-timestamp is no time in seconds since 1970")
    signed = b".".join([named["webhook-id"].encode(), sent.encode(), raw])
    expected = hmac.digest(_key_of(secret), signed, "sha256")
    # While a secret is changed there are two signatures; all are compared, so that time tells nothing.
    matches = [hmac.compare_digest(each, expected) for each in _signatures(named["webhook-signature"])]
    if not any(matches):
        raise WebhookError(
            "No signature is right: is the secret this endpoint's, and the body the raw one, byte for byte?"
        )
    late = time.time() - int(sent)
    if abs(late) > TOLERANCE_SECONDS:
        raise WebhookError(
            f"It was sent {abs(late):.0f} seconds {'ago' if late > 0 else 'ahead of this clock'}, more than "
            f"{TOLERANCE_SECONDS}: it may be sent again by somebody else, or a clock is wrong"
        )
    try:
        return read(_DECODER.decode, raw)
    except UnreadableError:
        raise WebhookError("The body is no JSON object") from None


def _key_of(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < _KEY_BYTES_MIN:
        raise WebhookError("The secret is none: it begins with whsec_, and was shown when the endpoint was made")
    return key


def _signatures(header: str) -> list[bytes]:
    found = []
    for each in header.split():
        version, _, text = each.partition(",")
        if version == "v1":
            try:
                found.append(base64.b64decode(text, validate=True))
            except (binascii.Error, ValueError):
                continue
    return found
