"""Email: a notice as a message by SMTP, where the operator has set a server for it."""

from __future__ import annotations

import asyncio
import ssl
import time
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final
from urllib.parse import unquote, urlsplit

import aiosmtplib
from pydantic import SecretStr

from schemas.accounts import Endpoint
from schemas.notices import Notice
from schemas.times import utc
from streams.courier.posts import ANSWER_BYTES_MAX, SECONDS_MAX, Outcome
from streams.courier.words import subject_of, text_of
from streams.errors import OperatorError

# Each scheme's port, and whether TLS begins at once, or by STARTTLS.
_SCHEMES: Final = {"smtps": (465, True, False), "smtp": (587, False, True), "smtp+plain": (25, False, False)}


class EmailSender:
    """A sender of email. `url` is `smtp://user:password@host:587`, where STARTTLS is a must; `smtps://` for TLS from
    the first byte, and `smtp+plain://` for a relay on this machine, without TLS or a password. Without a url it sends
    nothing, and says so. Raises OperatorError for a url that is none."""

    def __init__(
        self,
        url: SecretStr | None,
        sender: str | None,
        *,
        tls: ssl.SSLContext | None = None,
        seconds_max: float = SECONDS_MAX,
    ) -> None:
        self._sender = sender or ""
        self._seconds_max = seconds_max
        self._tls = tls
        self._server = None if url is None else urlsplit(url.get_secret_value())
        if self._server is not None and (self._server.scheme not in _SCHEMES or not self._server.hostname):
            raise OperatorError("METERLINE_SMTP_URL is no URL such as smtp://user:password@mail.example:587")
        if self._server is not None and self._server.scheme == "smtp+plain" and self._server.username:
            raise OperatorError("METERLINE_SMTP_URL would send its password without TLS: write smtp:// or smtps://")

    async def send(self, endpoint: Endpoint, notice: Notice, at_ms: int) -> Outcome:
        """Send a notice; `status` is the server's code, 250 where it took the message. Raises nothing."""
        began_at = time.monotonic()
        if self._server is None:
            return Outcome(status=0, ms=0, error="email is off here: the operator has set no server for it")
        status, answer, error = 0, b"", ""
        try:
            message = message_of(endpoint, notice, at_ms, self._sender)
            async with asyncio.timeout(self._seconds_max):
                status, answer = 250, (await self._hand_over(message)).encode()
        except aiosmtplib.SMTPRecipientsRefused as refused:
            status, answer = refused.recipients[0].code, str(refused.recipients[0].message).encode()
        except aiosmtplib.SMTPResponseException as refused:
            status, answer = refused.code, str(refused.message).encode()
        except TimeoutError:
            error = f"the mail server took longer than {self._seconds_max:g} seconds"
        except (aiosmtplib.SMTPException, OSError) as failed:
            error = f"the mail server can't be reached: {type(failed).__name__}"
        except ValueError:
            error = "the endpoint's address is none that a message can have"
        return Outcome(
            status=status,
            ms=round((time.monotonic() - began_at) * 1000),
            answer=answer[:ANSWER_BYTES_MAX],
            error=error,
            is_delivered=200 <= status < 300,
        )

    async def _hand_over(self, message: EmailMessage) -> str:
        assert self._server is not None
        port, is_tls, is_starttls = _SCHEMES[self._server.scheme]
        user, password = self._server.username, self._server.password
        _, said = await aiosmtplib.send(
            message,
            recipients=[message["To"].addresses[0].addr_spec],
            hostname=self._server.hostname,
            port=self._server.port or port,
            username=None if user is None else unquote(user),
            password=None if password is None else unquote(password),
            use_tls=is_tls,
            start_tls=is_starttls,
            tls_context=self._tls,
            timeout=self._seconds_max,
        )
        return said


def message_of(endpoint: Endpoint, notice: Notice, at_ms: int, sender: str) -> EmailMessage:
    """The message of a notice. A repeat has the same Message-ID, so a reader who gets two can tell. Raises ValueError
    where the endpoint's target is more, or less, than one address, or has what no header may have."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = endpoint.target
    if [each.addr_spec for each in message["To"].addresses] != [endpoint.target]:
        raise ValueError("not one address")
    message["Subject"] = subject_of(notice)
    message["Date"] = format_datetime(utc(at_ms))
    message["Message-ID"] = f"<{notice.id}.{endpoint.id}@{sender.rpartition('@')[2].rstrip('>') or 'meterline'}>"
    # Nobody's absence answers it.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text_of(notice))
    return message
