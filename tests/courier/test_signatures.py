"""Libraries of the Standard Webhooks verify what we sign, in Python, in JavaScript and in our own client."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from schemas.times import DAY_MS
from streams.client import WebhookError, verify_webhook
from streams.courier.signatures import headers_of, secret_of
from streams.kafka.clock import now_ms
from tests.courier.npm_webhooks import KEY, RECORD, asked_of_npm, endpoint, webhooks

RECORDED = json.loads(RECORD.read_text())
SECRET = secret_of(KEY, "whk-1", 1)


def test_webhooks_are_signed_as_the_npm_library_verified_them() -> None:
    assert webhooks() == [{name: each[name] for name in ("at_ms", "secret", "body", "headers")} for each in RECORDED]
    assert ["told" in each["said"] for each in RECORDED] == [True] * 4 + [False] * 2 + [True] + [False] * 3


@pytest.mark.skipif(shutil.which("npm") is None, reason="There is no npm here: the recorded answers are compared alone")
def test_the_npm_library_says_so_still(tmp_path: Path) -> None:
    assert asked_of_npm(tmp_path) == [each["said"] for each in RECORDED]


@pytest.mark.parametrize("number", range(len(RECORDED)))
def test_the_client_verifies_what_the_npm_library_does(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = RECORDED[number]
    monkeypatch.setattr("streams.client.webhooks.time", SimpleNamespace(time=lambda: case["at_ms"] / 1000))
    try:
        said: dict[str, Any] = {"told": verify_webhook(case["body"], case["headers"], case["secret"])}
    except WebhookError:
        said = {}
    assert said.get("told") == case["said"].get("told")


def test_a_secret_is_of_its_key_endpoint_and_version_and_of_nothing_else() -> None:
    # As openssl dgst -sha256 -hmac has it: receivers keep their secrets, so this never changes.
    assert SECRET == "whsec_c+U2NzaJXnL7Gme1lb5I0GOTVjVw8JlMQhuYm/wgITo="
    secrets = {secret_of(key, id, version) for key in (KEY, f"{KEY}x") for id in ("a", "a.1") for version in (1, 11)}
    assert len(secrets) == 8


def test_for_a_day_after_a_rotation_both_secrets_verify_and_then_the_new_one_alone() -> None:
    at_ms, body = now_ms(), b'{"a": 1}'
    for age_ms, count in ((0, 2), (DAY_MS - 1, 2), (DAY_MS, 1)):
        rotated = endpoint(secret_version=4, rotated_at_ms=at_ms - age_ms)
        headers = headers_of(KEY, rotated, "ntc-1", at_ms, body)
        assert len(headers["webhook-signature"].split(" ")) == count
        for version, is_good in ((4, True), (3, count == 2), (2, False)):
            secret = secret_of(KEY, rotated.id, version)
            for verify in (verify_webhook, python_library):
                try:
                    told = verify(body, headers, secret)
                except (WebhookError, WebhookVerificationError):
                    told = None
                assert (told == {"a": 1}) == is_good, (age_ms, version)


def python_library(body: bytes, headers: dict[str, str], secret: str) -> Any:
    return Webhook(secret).verify(body, headers)


@given(st.binary(max_size=40), st.integers(0, 200), st.sampled_from(["body", "webhook-id", "webhook-timestamp"]))
def test_nothing_that_was_signed_can_be_changed(change: bytes, place: int, where: str) -> None:
    body = b'{"id":"ntc-1","type":"webhook.test","data":{"project":"acme"}}'
    headers = headers_of(KEY, endpoint(), "ntc-1", now_ms(), body)
    assert verify_webhook(body, headers, SECRET)["type"] == "webhook.test"
    parts = {"body": body, **{name: headers[name].encode() for name in ("webhook-id", "webhook-timestamp")}}
    original = parts[where]
    parts[where] = original[:place] + change + original[place:]
    changed = {**headers, **{name: parts[name].decode("latin-1") for name in parts if name != "body"}}
    if parts[where] == original:
        return
    with pytest.raises(WebhookError):
        verify_webhook(parts["body"], changed, SECRET)


def test_a_webhook_that_is_not_to_be_believed_is_refused_in_words() -> None:
    body = b'{"a": 1}'
    good = headers_of(KEY, endpoint(), "ntc-1", now_ms(), body)
    upper = {name.upper(): value for name, value in good.items()}
    assert verify_webhook(body.decode(), upper, SECRET) == {"a": 1}
    old, early = (headers_of(KEY, endpoint(), "ntc-1", now_ms() + ms, body) for ms in (-302_000, 302_000))
    listed = headers_of(KEY, endpoint(), "ntc-1", now_ms(), b"[1]")
    signature = good["webhook-signature"]
    cases: list[tuple[bytes, dict[str, str], str, str]] = [
        (body, {}, SECRET, "webhook-id is missing"),
        (body, good | {"webhook-signature": ""}, SECRET, "webhook-signature is missing"),
        (body, good | {"webhook-timestamp": "soon"}, SECRET, "no time"),
        (body, good | {"webhook-timestamp": "9" * 400}, SECRET, "no time"),
        (body, good | {"webhook-signature": f"v2{signature[2:]}"}, SECRET, "No signature is right"),
        (body, good | {"webhook-signature": "v1,é v1 , v1,="}, SECRET, "No signature is right"),
        (body, good, secret_of(KEY, "whk-2", 1), "No signature is right"),
        (body, old, SECRET, "seconds ago"),
        (body, early, SECRET, "ahead of this clock"),
        (b"[1]", listed, SECRET, "no JSON object"),
        (body, good, "whsec_", "The secret is none"),
        (body, good, "whsec_é", "The secret is none"),
        (body, good, "mtl_live_abc", "The secret is none"),
    ]
    for sent, headers, secret, words in cases:
        with pytest.raises(WebhookError, match=words):
            verify_webhook(sent, headers, secret)
