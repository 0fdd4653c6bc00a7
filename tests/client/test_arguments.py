"""Arguments that can never be right raise at once, by name, with what to give instead; nothing is sent for them.

The clients here are of addresses where nobody listens: what gets as far as sending raises MeterlineAway or hangs.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import streams.client
from schemas.problems import Rejection
from streams.client import (
    Away,
    Charge,
    Decision,
    Gateway,
    HttpAdmissions,
    HttpProducer,
    KafkaAdmissions,
    KafkaProducer,
    KafkaSettings,
    Route,
    usage_event,
)
from streams.client.arguments import ArgumentError
from streams.client.away_journal import Asked

URL, KEY, KAFKA = "http://127.0.0.1:9", "mtl_live_x", KafkaSettings("127.0.0.1:9")
HELD = Decision(200, "", "", "p", "image", Decimal(96), Decimal(0), "0-1-0", 1, hold_id="0-1-0")
RIGHT: dict[str, Any] = {"project": "p", "operation": "image", "id": "1", "source": "/t"}
NAN, LONG = float("nan"), "x" * 257

# What is wrong with a usage event, said alike to whoever takes its fields: the argument, its value, words of the error.
OF_EVENTS: list[tuple[str, Any, str]] = [
    ("project", "", "length >= 1"),
    ("project", "a b", "letters, digits"),
    ("project", 7, "expected `str`"),
    ("project", None, "missing"),
    ("operation", "", "length >= 1"),
    ("operation", LONG, "length <= 256"),
    ("operation", None, "expected `str`"),
    ("operation", "social_post.image", "'social_post.image'"),
    ("id", "", "Give every event an `id`"),
    ("id", LONG, "length <= 256"),
    ("id", 42, "expected `str`"),
    ("id", "half an emoji \ud83d", "surrogates"),
    ("source", "", "length >= 1"),
    ("source", LONG, "length <= 256"),
    ("quantity", -1, "whole number from 1 to 10000"),
    ("quantity", 0, "whole number from 1 to 10000"),
    ("quantity", 10_001, "whole number from 1 to 10000"),
    ("quantity", 1.5, "expected `int"),
    ("quantity", "2", "expected `int"),
    ("quantity", True, "expected `int"),
    ("environment", "staging", "invalid enum value"),
    ("job_id", "x" * 129, "length <= 128"),
    ("job_id", 7, "expected `str"),
    ("metadata", {"a": "x" * 513}, "at most 512 characters"),
    ("metadata", {str(n): n for n in range(33)}, "32 keys"),
    ("metadata", {"x" * 65: 1}, "64 characters"),
    ("metadata", {"a": 2**63}, "64 bits"),
    ("metadata", {"a": [1]}, "got `array`"),
    ("metadata", {"a": NAN}, "finite"),
    ("metadata", ["a"], "expected `object"),
    ("target_languages", 2, "belongs to operation 'translation'"),
    ("attempts", 0, "whole number from 1 to 10000"),
    ("networks", 2, "belongs to operation 'social_post'"),
    ("tier", "premium", "belongs to operation 'video'"),
    ("tier", "gold", "invalid enum value"),
    ("media_type", "sound", "invalid enum value"),
    ("quantty", 2, "not a field"),
]
OF_TIMES: list[tuple[str, Any, str]] = [
    ("time", datetime(2026, 5, 1), "datetime.now(UTC)"),
    ("time", "2026-05-01T00:00:00", "end it with Z"),
    ("time", "yesterday", "RFC 3339"),
    ("time", 1_780_000_000, "expected `str"),
]
OF_ADMISSIONS: list[tuple[str, Any, str]] = [
    ("hold", 1, "expected `bool`"),
    ("hold_seconds", 0, ">= 1"),
    ("hold_seconds", 604_801, "<= 604800"),
    ("idempotency_key", " ", "blank"),
    ("idempotency_key", "k" * 256, "255 at most"),
    ("idempotency_key", "a\x00", "control characters"),
    ("idempotency_key", 7, "expected `str`"),
    ("key_id", LONG, "<= 256"),
]

Admitting = Callable[[], HttpAdmissions | KafkaAdmissions]
ADMISSIONS: dict[str, Admitting] = {
    "HttpAdmissions": lambda: HttpAdmissions(URL, KEY),
    "KafkaAdmissions": lambda: KafkaAdmissions(KAFKA),
}
PRODUCERS = {"HttpProducer": lambda: HttpProducer(URL, KEY), "KafkaProducer": lambda: KafkaProducer(KAFKA)}


def admit(kind: str, **said: Any) -> None:
    """Ask for an admission, of a client that is not connected."""
    said = RIGHT | ({"hold": True} if "hold_seconds" in said else {}) | said
    asyncio.run(ADMISSIONS[kind]().admit(said.pop("project"), said.pop("operation"), **said))


def send(kind: str, **said: Any) -> None:
    """Send a CloudEvent that a caller has made itself."""
    said = RIGHT | said
    attributes = {name: said.pop(name) for name in ("id", "source", "time") if name in said}
    event = {"specversion": "1.0", "type": "usage", "subject": said.pop("project"), "data": said, **attributes}

    async def sent() -> None:
        await PRODUCERS[kind]().send(event)

    asyncio.run(sent())


def refused(call: Callable[[], object], argument: str, words: str) -> ArgumentError:
    """The error that a call ends with, which names the argument."""
    with pytest.raises(ArgumentError) as raised:
        call()
    error = raised.value
    assert isinstance(error, ValueError) and isinstance(error, Rejection)
    assert error.argument == argument
    text = str(error)
    assert text.startswith(f"{argument}: ") and words in text, text
    assert "`data." not in text and "subject" not in text
    return error


@pytest.mark.parametrize(("argument", "value", "words"), [*OF_EVENTS, *OF_TIMES])
def test_a_usage_event_is_right_or_is_not_made(argument: str, value: Any, words: str) -> None:
    said = RIGHT | {argument: value}
    error = refused(lambda: usage_event(said.pop("project"), said.pop("operation"), **said), argument, words)
    if argument not in ("id", "source", "time"):
        assert (error.source, error.id) == ("/t", "1")
        assert str(error).endswith(" (event '1' of source '/t')")


@pytest.mark.parametrize("kind", ADMISSIONS)
@pytest.mark.parametrize(("argument", "value", "words"), [*OF_EVENTS, *OF_ADMISSIONS])
def test_an_admission_is_right_or_is_not_asked_for(kind: str, argument: str, value: Any, words: str) -> None:
    refused(lambda: admit(kind, **{argument: value}), argument, words)


@pytest.mark.parametrize("kind", ADMISSIONS)
def test_seconds_without_a_hold_are_no_hold(kind: str) -> None:
    refused(lambda: admit(kind, hold=False, hold_seconds=60), "hold_seconds", "hold=True")


# A producer is given whole events: one that can't be written as JSON is named as a whole, and `null` is not set.
BY_PRODUCERS = [each for each in OF_EVENTS if each[1] is not None and each[2] not in ("finite", "surrogates")]


@pytest.mark.parametrize("kind", PRODUCERS)
@pytest.mark.parametrize(("argument", "value", "words"), BY_PRODUCERS)
def test_an_event_of_the_callers_own_is_right_or_is_not_sent(kind: str, argument: str, value: Any, words: str) -> None:
    refused(lambda: send(kind, **{argument: value}), argument, words)


@pytest.mark.parametrize("kind", PRODUCERS)
@pytest.mark.parametrize(
    ("event", "words"), [(7, "UsageEvent"), ("{}", "UsageEvent"), ({"id": object()}, "JSON"), (None, "UsageEvent")]
)
def test_what_is_no_event_is_not_sent(kind: str, event: Any, words: str) -> None:
    async def sent() -> None:
        await PRODUCERS[kind]().send(event)

    refused(lambda: asyncio.run(sent()), "event", words)


# Every other public argument: how it is given, its name, and words of the error.
OTHERS: list[tuple[Callable[[], object], str, str]] = [
    *(
        (lambda make=make, call=call: asyncio.run(call(make())), argument, words)
        for make in ADMISSIONS.values()
        for call, argument, words in (
            (lambda a: a.capture("p", "job-1"), "hold_id", "`hold_id` of the decision"),
            (lambda a: a.capture("p", "../../x"), "hold_id", "`hold_id` of the decision"),
            (lambda a: a.capture("p", None), "hold_id", "`hold_id` of the decision"),
            (lambda a: a.capture("a b", "0-1-0"), "project", "letters, digits"),
            (lambda a: a.capture(7, "0-1-0"), "project", "expected `str`"),
            (lambda a: a.release("p", ""), "hold_id", "`hold_id` of the decision"),
            (lambda a: a.release("p", "0-1-0", "x" * 201), "reason", "<= 200"),
            (lambda a: a.release("p", "0-1-0", 7), "reason", "expected `str`"),
            (lambda a: a.extend("p", "x", 60), "hold_id", "`hold_id` of the decision"),
            (lambda a: a.extend("p", "0-1-0", 0), "seconds", ">= 1"),
            (lambda a: a.extend("p", "0-1-0", 604_801), "seconds", "<= 604800"),
            (lambda a: a.extend("p", "0-1-0", 1.5), "seconds", "expected `int`"),
        )
    ),
    *((lambda make=make: make("127.0.0.1:8080", KEY), "url", "https?") for make in (HttpAdmissions, HttpProducer)),
    *((lambda make=make: make(URL, "a b"), "key", "regex") for make in (HttpAdmissions, HttpProducer)),
    *((lambda make=make: make(URL, ""), "key", "regex") for make in (HttpAdmissions, HttpProducer)),
    *(
        (lambda make=make: make(URL, KEY, attempts_max=0), "attempts_max", ">= 1")
        for make in (HttpAdmissions, HttpProducer)
    ),
    (lambda: HttpAdmissions(URL, KEY, timeout_seconds=0), "timeout_seconds", "> 0"),
    (lambda: HttpAdmissions(URL, KEY, timeout_seconds=NAN), "timeout_seconds", "> 0"),
    (lambda: HttpAdmissions(URL, KEY, connections_max=0), "connections_max", ">= 1"),
    (lambda: HttpAdmissions(URL, KEY, prices_seconds=-1), "prices_seconds", ">= 0"),
    (lambda: KafkaAdmissions(KAFKA, timeout_seconds=-1), "timeout_seconds", "> 0"),
    (lambda: KafkaAdmissions(KAFKA, api_url="api"), "api_url", "https?"),
    (lambda: KafkaAdmissions(KAFKA, prices_seconds=-1), "prices_seconds", ">= 0"),
    *(
        (lambda make=make, name=name, value=value: make(**{name: value}), name, words)
        for make in (lambda **said: HttpProducer(URL, KEY, **said), lambda **said: KafkaProducer(KAFKA, **said))
        for name, value, words in (
            ("events_per_pack", 0, ">= 1"),
            ("events_pending_max", 0, ">= 1"),
            ("linger_ms", -1, ">= 0"),
        )
    ),
    (lambda: HttpProducer(URL, KEY, retry_seconds=-1), "retry_seconds", ">= 0"),
    (lambda: HttpProducer(URL, KEY, give_up_seconds=-1), "give_up_seconds", ">= 0"),
    (lambda: KafkaSettings("nowhere"), "kafka_url", "regex"),
    (lambda: KafkaSettings("a:1", partitions=0), "partitions", ">= 1"),
    (lambda: KafkaSettings("a:1", topic_prefix="a b"), "topic_prefix", "regex"),
    (lambda: KafkaSettings("a:1", reply_timeout_seconds=0), "reply_timeout_seconds", "> 0"),
    (lambda: KafkaSettings("a:1", kafka_security_protocol="TLS"), "kafka_security_protocol", "enum"),
    (lambda: KafkaSettings("a:1", kafka_sasl_mechanism="GSSAPI"), "kafka_sasl_mechanism", "enum"),
    (lambda: KafkaSettings.from_environment({}), "METERLINE_KAFKA_URL", "host:port"),
    (
        lambda: KafkaSettings.from_environment({"METERLINE_KAFKA_URL": "a:1", "METERLINE_PARTITIONS": "x"}),
        "METERLINE_PARTITIONS",
        "no number",
    ),
    (lambda: Away(seconds_max=60), "journal", "a path"),
    (lambda: Away(Path("/nowhere"), seconds_max=-1), "seconds_max", ">= 0"),
    (lambda: Away(Path("/nowhere"), entries_max=0), "entries_max", ">= 1"),
    (lambda: Route("post", "/x", "image"), "method", "regex"),
    (lambda: Route("POST", "x", "image"), "path", "regex"),
    (lambda: Route("POST", "/x", ""), "operation", "length >= 1"),
    (lambda: Route("POST", "/x", 7), "operation", "expected `str`"),
    (lambda: Route("POST", "/x", "image", hold="yes"), "hold", "expected `bool`"),
    (lambda: Route("POST", "/x", "image", hold_seconds=0), "hold_seconds", ">= 1"),
    (lambda: Route("POST", "/x", "image", details={"quantity": -1}), "quantity", "whole number"),
    (lambda: Route("POST", "/x", "image", details={"quantty": 1}), "details", "quantity, target_languages"),
    (lambda: Route("POST", "/x", "image", details={"metadata": {"a": [1]}}), "metadata", "got `array`"),
    (lambda: Route("POST", "/x", "image", details=["quantity"]), "details", "expected `object`"),
    *(
        (lambda said=said: Gateway(lambda: None, **_gateway(**said)), argument, words)
        for said, argument, words in (
            ({"others": "ignore"}, "others", "enum"),
            ({"repeats": "ignore"}, "repeats", "enum"),
            ({"source": ""}, "source", "length >= 1"),
            ({"routes": ["POST /x"]}, "routes", "no Route"),
        )
    ),
    (lambda: Charge(HELD, True, quantity=3).capture(quantity=-1), "quantity", ">= 0"),
    (lambda: Charge(HELD, True, quantity=3).capture(quantity=1.5), "quantity", "expected `int`"),
    (lambda: Charge(HELD, True, quantity=3).capture(quantity=4), "quantity", "held for (3)"),
    (lambda: Charge(HELD, False, quantity=3).capture(quantity=1), "quantity", "nothing is held"),
    (lambda: Charge(HELD, True, quantity=3).capture("1", quantity=1), "quantity", "one of them"),
    (lambda: Charge(HELD, True).release(7), "reason", "expected `str`"),
]


def _gateway(**said: Any) -> dict[str, Any]:
    parts = {"admissions": HttpAdmissions(URL, KEY), "routes": [], "project_of": lambda scope: ""}
    return parts | said


@pytest.mark.parametrize(("call", "argument", "words"), OTHERS)
def test_every_other_argument_is_right_or_named(call: Callable[[], object], argument: str, words: str) -> None:
    refused(call, argument, words)


def test_every_public_argument_is_in_a_table() -> None:
    """But those that have no wrong value of their own, or whose values tests/client/test_amounts.py has."""
    tried = {argument for argument, _, _ in (*OF_EVENTS, *OF_TIMES, *OF_ADMISSIONS)}
    tried |= {argument for _, argument, _ in OTHERS}
    free = {"self", "details", "event", "credits", "credits_max", "total_credits_max"}
    # Parts of a gateway, which mypy sees, and paths and texts of every kind.
    free |= {"app", "admissions", "producer", "away", "project_of", "settings", "environment", "kafka_ssl_cafile"}
    free |= {"kafka_ssl_certfile", "kafka_ssl_keyfile", "kafka_sasl_username", "kafka_sasl_password"}
    public = (
        HttpAdmissions,
        KafkaAdmissions,
        HttpProducer,
        KafkaProducer,
        KafkaSettings,
        Route,
        Gateway,
        Away,
        HttpAdmissions.admit,
        KafkaAdmissions.admit,
        HttpAdmissions.capture,
        HttpAdmissions.release,
        HttpAdmissions.extend,
        Charge.capture,
        Charge.release,
        usage_event,
    )
    named = {name for each in public for name in inspect.signature(each).parameters}
    assert named - tried - free == set()
    assert {"ArgumentError", "Rejection"} <= set(streams.client.__all__)


def test_times_with_a_zone_are_taken_as_they_are() -> None:
    at = datetime(2026, 5, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    event = usage_event("p", "image", id="1", source="/t", time=at)
    assert event.time == "2026-05-01T00:00:00+00:00"
    assert usage_event("p", "image", id="1", source="/t", time=at.astimezone(UTC)) == event


def test_what_a_gateways_customer_names_wrongly_is_a_decision() -> None:
    """The gateway computes details from a customer's request: what is wrong there is not the platform's fault."""
    asked = Asked(
        project="p",
        operation="image",
        id="1",
        source="/t",
        idempotency_key="k",
        occurred_at="",
        details={"quantity": -1},
    )
    decision = asyncio.run(asked.ask(HttpAdmissions(URL, KEY)))
    assert (decision.status, decision.code, decision.field, decision.allowed) == (
        422,
        "invalid_quantity",
        "quantity",
        False,
    )


def test_the_text_of_anothers_event_goes_on_as_it_is() -> None:
    async def sent() -> int:
        producer = HttpProducer(URL, KEY, linger_ms=60_000)
        await producer.send(b'{"id": ')
        pending = producer.pending
        producer._lingering.cancel()
        return pending

    assert asyncio.run(sent()) == 1


def test_a_part_of_what_was_asked_for_costs_its_share_exactly() -> None:
    charge = Charge(HELD, True, quantity=3)
    for quantity, credits in ((0, "0"), (1, "32"), (3, "96")):
        charge.capture(quantity=quantity)
        assert (charge.outcome, charge.credits) == ("capture", Decimal(credits))
