"""Signatures of webhooks, by the Standard Webhooks: `webhook-id`, `webhook-timestamp` and `webhook-signature`.

An endpoint's secret is kept nowhere. It follows from one key of the operator's, so every process can have it, and no
copy of the accounts, the log or the history gives it away.
"""

from __future__ import annotations

import base64
import hmac
from datetime import UTC, datetime

from standardwebhooks import Webhook

from schemas.accounts import Endpoint
from schemas.times import DAY_MS

# The secret before a rotation signs too for so long after it.
ROTATION_MS = DAY_MS


def secret_of(webhook_key: str, endpoint_id: str, version: int) -> str:
    """The secret of an endpoint, `whsec_` and the 32 bytes in base64, after so many rotations and one."""
    message = f"{endpoint_id}.{version}".encode()
    return f"whsec_{base64.b64encode(hmac.digest(webhook_key.encode(), message, 'sha256')).decode()}"


def headers_of(webhook_key: str, endpoint: Endpoint, notice_id: str, at_ms: int, body: bytes) -> dict[str, str]:
    """The headers that sign a body as sent at a time, for a day after a rotation by the secret before it too."""
    versions = [endpoint.secret_version]
    if endpoint.secret_version > 1 and at_ms - endpoint.rotated_at_ms < ROTATION_MS:
        versions.append(endpoint.secret_version - 1)
    # The library takes any time for UTC, whatever zone it has.
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    text = body.decode()
    signed = [Webhook(secret_of(webhook_key, endpoint.id, each)).sign(notice_id, at, text) for each in versions]
    return {
        "webhook-id": notice_id,
        "webhook-timestamp": str(at_ms // 1000),
        "webhook-signature": " ".join(signed),
    }
