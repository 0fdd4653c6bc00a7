"""A notice reaches endpoints of every kind: a webhook, signed; Slack; and a mailbox, by a real SMTP server."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP as POLICY
from typing import Any, get_args

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from hypothesis import given
from hypothesis import strategies as st

from schemas.notices import Notice, NoticeType
from streams.client import verify_webhook
from streams.courier.email import message_of
from streams.courier.outgoing import Senders, body_of
from streams.courier.signatures import secret_of
from streams.courier.words import subject_of, text_of
from streams.embedded import lifeline
from streams.errors import OperatorError
from streams.kafka.clock import now_ms
from streams.settings import Settings
from tests.courier.npm_webhooks import KEY, endpoint, notice
from tests.courier.receivers import authority, receiver, trusting


def senders(**settings: Any) -> Senders:
    given: dict[str, Any] = {"webhook_key": KEY, "webhook_networks": '["127.0.0.0/8"]', **settings}

    async def at_home(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    return Senders(Settings.model_validate(given), tls=trusting(), look_up=at_home, seconds_max=5.0)


@pytest.mark.asyncio
async def test_a_webhook_is_signed_and_slack_gets_words_that_mention_nobody() -> None:
    own = senders()
    async with receiver("hooks.example") as there:
        to = endpoint(target=f"https://hooks.example:{there.port}/in")
        low = notice(available="1999.98", threshold="2000")
        assert (await own.send(to, low, now_ms())).is_delivered
        (got,) = there.requests
        assert verify_webhook(got.body, got.headers, secret_of(KEY, to.id, 1)) == {
            "id": "ntc-3-17-2",
            "type": "project.credits_low",
            "timestamp": "2026-09-21T14:13:15.123Z",
            "data": {"available": "1999.98", "threshold": "2000", "project": "acme", "environment": "production"},
        }
        assert (got.headers["content-type"], got.headers["webhook-id"]) == ("application/json", "ntc-3-17-2")
        assert not any(KEY in each or "whsec" in each for each in got.headers.values())

        slack = endpoint(kind="slack", target=to.target)
        told = notice(said="<!channel> & <https://evil.example|click>", available="1999.98")
        assert (await own.send(slack, told, now_ms())).is_delivered
        (message,) = [json.loads(each.body) for each in there.requests[1:]]
        assert set(message) == {"text"}
        assert message["text"].startswith("acme (production) has few credits left\n")
        assert (
            "said: &lt;!channel&gt; &amp; &lt;https://evil.example|click&gt;\navailable: 1999.98\n" in message["text"]
        )
        assert "webhook-signature" not in there.requests[1].headers
    other = await own.send(endpoint(kind="pigeon"), low, now_ms())
    assert (other.status, other.is_delivered) == (0, False)
    assert "'pigeon'" in other.error
    off = await own.send(endpoint(kind="email", target="ops@acme.example"), low, now_ms())
    assert off.error.startswith("email is off here")
    await own.close()
    with pytest.raises(OperatorError, match="METERLINE_WEBHOOK_KEY"):
        Senders(Settings())


def test_credits_are_told_as_decimal_strings_and_times_by_rfc_3339_as_answers_tell_them() -> None:
    told = notice(available_microcredits=1_999_980_000, effective_at_ms=1_790_000_000_123, cents=2000, is_ready=True)
    assert json.loads(body_of(told))["data"] == {
        "available": "1999.98",
        "effective_at": "2026-09-21T14:13:20.123Z",
        "cents": 2000,
        "is_ready": True,
        "project": "acme",
        "environment": "production",
    }
    assert "available: 1999.98\neffective at: 2026-09-21T14:13:20.123Z\ncents: 2000\nis ready: yes\n" in text_of(told)


def test_what_is_too_long_for_a_body_is_told_in_short_and_every_body_fits() -> None:
    long = notice("price.announced", version="7", books=["x" * 500] * 100, memo="m" * 300, effective_at="2026-10-01")
    body = body_of(long)
    assert len(body) < 20_000
    assert json.loads(body)["data"] == {
        "version": "7",
        "effective_at": "2026-10-01",
        "is_shortened": True,
        "project": "acme",
        "environment": "production",
    }
    many = notice("price.announced", **{f"n{number}": "é" * 200 for number in range(1000)})
    assert len(body_of(many)) < 20_000


@given(st.sampled_from(get_args(NoticeType)), st.text(max_size=40), st.dictionaries(st.text(max_size=9), st.text()))
def test_every_type_has_words_and_no_name_or_data_adds_a_header_or_moves_a_cursor(
    type: Any, project: str, data: dict[str, str]
) -> None:
    told = Notice("ntc-1-2-3", type, project, "preview", 1_790_000_000_000, json.dumps(data) if data else "")
    subject, text = subject_of(told), text_of(told)
    assert subject.isprintable() and 10 < len(subject) < 400
    assert all(each.isprintable() for each in text.split("\n"))
    assert text.startswith(f"{subject}\n\n")
    message = message_of(endpoint(kind="email", target="ops@acme.example"), told, 1_790_000_000_000, "m@x.example")
    read = message_from_bytes(message.as_bytes(policy=POLICY), _class=EmailMessage, policy=POLICY)
    assert sorted(map(str.lower, read.keys())) == sorted(
        [
            *("from", "to", "subject", "date", "message-id", "auto-submitted"),
            *("content-type", "content-transfer-encoding", "mime-version"),
        ]
    )
    assert (read["to"], read["message-id"]) == ("ops@acme.example", "<ntc-1-2-3.whk-1@x.example>")


class Mailbox:
    """A mailbox has what a mail server took, and the passwords that it was told."""

    def __init__(self) -> None:
        self.letters: list[Envelope] = []
        self.logins: list[tuple[bytes, bytes]] = []

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody@"):
            return "550 No such mailbox"
        if address.startswith("slow@"):
            await asyncio.sleep(60)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.letters.append(envelope)
        return "250 Taken as 17"

    def login(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"p@ss/word")


@contextmanager
def mail_server(*, has_tls: bool = True) -> Iterator[tuple[Mailbox, int]]:
    """A mail server that takes letters by STARTTLS with a password, or, without TLS, from anybody."""
    box = Mailbox()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("127.0.0.1").configure_cert(tls)
    secured = {
        "tls_context": tls,
        "require_starttls": True,
        "auth_required": True,
        "auth_require_tls": True,
        "authenticator": box.login,
    }
    port = lifeline.free_port()
    server = Controller(box, hostname="127.0.0.1", port=port, **(secured if has_tls else {}))
    server.start()
    try:
        yield box, port
    finally:
        server.stop()


@pytest.mark.asyncio
async def test_email_is_handed_over_by_starttls_to_a_real_server_and_what_it_says_is_told() -> None:
    with mail_server() as (box, port):
        own = senders(smtp_url=f"smtp://us%40er:p%40ss%2Fword@127.0.0.1:{port}", smtp_from="Meterline <m@x.example>")
        low = notice(available="1999.98", threshold="2000")
        to = endpoint(kind="email", target="ops@acme.example")
        outcome = await own.send(to, low, 1_790_000_000_000)
        assert (outcome.status, outcome.is_delivered, outcome.error) == (250, True, "")
        assert b"Taken as 17" in outcome.answer
        assert box.logins == [(b"us@er", b"p@ss/word")]
        (letter,) = box.letters
        assert (letter.mail_from, letter.rcpt_tos) == ("m@x.example", ["ops@acme.example"])
        assert isinstance(letter.content, bytes)
        read = message_from_bytes(letter.content, _class=EmailMessage, policy=POLICY)
        assert read["subject"] == "acme (production) has few credits left"
        assert "available: 1999.98\nthreshold: 2000\n" in read.get_content().replace("\r\n", "\n")

        refused = await own.send(endpoint(kind="email", target="nobody@acme.example"), low, now_ms())
        assert (refused.status, refused.is_delivered, refused.answer) == (550, False, b"No such mailbox")
        for target in ("a@b.example\r\nBcc: c@d.example", "a@b.example\nX: y", "a@b.example, c@d.example"):
            odd = await own.send(endpoint(kind="email", target=target), low, now_ms())
            assert (odd.status, odd.is_delivered, odd.error != "") == (0, False, True), target
        assert len(box.letters) == 1
        await own.close()

        slow = Senders(
            Settings.model_validate(
                {"webhook_key": KEY, "smtp_url": f"smtp://u:p%40ss%2Fword@127.0.0.1:{port}", "smtp_from": "m@x.example"}
            ),
            tls=trusting(),
            seconds_max=0.5,
        )
        outcome = await slow.send(endpoint(kind="email", target="slow@acme.example"), low, now_ms())
        assert outcome.error == "the mail server took longer than 0.5 seconds"
    with mail_server(has_tls=False) as (box, port):
        # No password and no letter goes to a server without TLS, unless that was said.
        strict = senders(smtp_url=f"smtp://127.0.0.1:{port}", smtp_from="m@x.example")
        assert (await strict.send(to, low, now_ms())).error.startswith("the mail server")
        assert box.letters == []
        plain = senders(smtp_url=f"smtp+plain://127.0.0.1:{port}", smtp_from="m@x.example")
        assert (await plain.send(to, low, now_ms())).is_delivered
    assert (await plain.send(to, low, now_ms())).error.startswith("the mail server can't be reached")


def test_settings_of_email_that_can_not_work_are_refused_and_no_secret_is_shown() -> None:
    for url, words in (
        ("mail.example", "no URL such as"),
        ("http://mail.example", "no URL such as"),
        ("smtp+plain://user:secret@mail.example", "without TLS"),
    ):
        with pytest.raises(OperatorError, match=words) as refused:
            senders(smtp_url=url, smtp_from="m@x.example")
        assert "secret" not in str(refused.value)
    for sender in (None, "", "nobody", "a@b.example\nBcc: c@d.example"):
        with pytest.raises(OperatorError, match="METERLINE_SMTP_FROM"):
            senders(smtp_url="smtp://mail.example", smtp_from=sender)
    with pytest.raises(OperatorError, match="METERLINE_WEBHOOK_PROXY"):
        senders(webhook_proxy="proxy.example:3128")
    with pytest.raises(ValueError, match="32"):
        senders(webhook_key="short")
    secret = {
        "webhook_key": KEY,
        "smtp_url": "smtp://user:secret-1@mail.example",
        "smtp_from": "m@x.example",
        "webhook_proxy": "http://user:secret-2@proxy.example:1",
    }
    settings = Settings.model_validate(secret)
    assert not any(each in f"{settings!r}{settings.model_dump_json()}" for each in (KEY, "secret-1", "secret-2"))
    environment = settings.as_environment()
    assert {name: environment[f"METERLINE_{name.upper()}"] for name in secret} == secret
