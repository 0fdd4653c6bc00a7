"""Senders take a notice to an endpoint of any kind, and tell what came of it."""

from __future__ import annotations

import ssl
from typing import Any, Final, Protocol

import msgspec

from schemas.accounts import Endpoint
from schemas.notices import Notice
from schemas.times import utc
from streams.courier.addresses import Resolve
from streams.courier.email import EmailSender
from streams.courier.posts import BODY_BYTES_MAX, SECONDS_MAX, Outcome, Posts
from streams.courier.signatures import headers_of
from streams.courier.slack import SlackSender
from streams.courier.words import data_of
from streams.errors import OperatorError
from streams.settings import Settings

__all__ = ["Outcome", "Sender", "Senders", "body_of"]

_USER_AGENT: Final = "Meterline-Courier/1"
# Of data that does not fit, texts of up to so many characters are told, and numbers.
_SHORT_CHARS_MAX: Final = 200


class Sender(Protocol):
    """A sender makes one attempt to deliver a notice, in 15 seconds at most."""

    async def send(self, endpoint: Endpoint, notice: Notice, at_ms: int) -> Outcome:
        """Send a notice to an endpoint, as of a time. Raises nothing but CancelledError."""
        ...


class Senders:
    """The senders of a process, one for each kind of endpoint. Raises OperatorError where the settings have no key for
    signatures. `tls`, `look_up` and `seconds_max` are for tests."""

    def __init__(
        self,
        settings: Settings,
        *,
        tls: ssl.SSLContext | None = None,
        look_up: Resolve | None = None,
        seconds_max: float = SECONDS_MAX,
    ) -> None:
        if settings.webhook_key is None:
            raise OperatorError("Set METERLINE_WEBHOOK_KEY, the API's, to 32 characters or more: it signs webhooks")
        proxy = None if settings.webhook_proxy is None else settings.webhook_proxy.get_secret_value()
        self._posts = Posts(settings.webhook_networks, proxy, tls=tls, look_up=look_up, seconds_max=seconds_max)
        self._senders: dict[str, Sender] = {
            "webhook": _WebhookSender(self._posts, settings.webhook_key.get_secret_value()),
            "slack": SlackSender(self._posts),
            "email": EmailSender(settings.smtp_url, settings.smtp_from, tls=tls, seconds_max=seconds_max),
        }

    async def send(self, endpoint: Endpoint, notice: Notice, at_ms: int) -> Outcome:
        """Send a notice to an endpoint, by the sender of its kind. Raises nothing but CancelledError."""
        sender = self._senders.get(endpoint.kind)
        if sender is None:
            return Outcome(status=0, ms=0, error=f"nothing here sends to endpoints of kind {endpoint.kind[:40]!r}")
        return await sender.send(endpoint, notice, at_ms)

    async def close(self) -> None:
        """Give back what sending takes."""
        await self._posts.close()


class _WebhookSender:
    """A sender of signed webhooks."""

    def __init__(self, posts: Posts, webhook_key: str) -> None:
        self._posts = posts
        self._webhook_key = webhook_key

    async def send(self, endpoint: Endpoint, notice: Notice, at_ms: int) -> Outcome:
        body = body_of(notice)
        headers = {
            "content-type": "application/json",
            "user-agent": _USER_AGENT,
            **headers_of(self._webhook_key, endpoint, notice.id, at_ms, body),
        }
        return await self._posts.post(endpoint.target, body, headers)


def body_of(notice: Notice) -> bytes:
    """The body of a webhook, JSON of less than 20,000 bytes. Data that does not fit is told in short, with
    `is_shortened`, so that no notice is lost for its length: `GET /v1/notices` has all of it."""
    body = _encoded(notice, data_of(notice))
    if len(body) < BODY_BYTES_MAX:
        return body
    brief = {
        name: value
        for name, value in data_of(notice).items()
        if isinstance(value, int | None) or (isinstance(value, str) and len(value) <= _SHORT_CHARS_MAX)
    }
    while len(body := _encoded(notice, brief | {"is_shortened": True})) >= BODY_BYTES_MAX:
        brief = dict(list(brief.items())[: len(brief) // 2])
    return body


def _encoded(notice: Notice, data: dict[str, Any]) -> bytes:
    project = {"project": notice.project} if notice.project else {}
    environment = {"environment": notice.environment} if notice.environment else {}
    return msgspec.json.encode(
        {
            "id": notice.id,
            "type": notice.type,
            "timestamp": utc(notice.at_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "data": {**data, **project, **environment},
        }
    )
