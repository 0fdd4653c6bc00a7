"""Names and fingerprints of kept replies: they are stored, and a repeat finds its first answer after an upgrade too."""

from typing import Any

import msgspec
import pytest

from schemas.commands import AnyCommand, CountRequest, TopUp
from schemas.problems import Rejection
from streams.core.replies import check_key, fingerprint, is_reply_kept, key_hash, request_hash
from tests.core.builders import addressed, admit, create_project, top_up, usage

ADMISSION = admit(usage(quantity=2), key="k")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (ADMISSION, "780b2f8371e81847f4b1711f5659dac6"),
        (top_up(key="k"), "77573be5c44fcff6266b8c398e907db1"),
        (create_project(key="k"), "42b639eeb2ae52549a48ece70aac2b80"),
    ],
)
def test_a_fingerprint_is_the_same_in_every_version(command: AnyCommand, expected: str) -> None:
    assert fingerprint(command).hex() == expected


def test_purchases_by_contract_that_differ_have_other_fingerprints() -> None:
    terms = [(20, 0, 0), (100, 0, 0), (0, 1, 1), (0, 2, 1), (0, 1, 2)]
    asked = [
        TopUp(
            project="p1", environment="preview", bundle_usd=usd, reference="", amount=amount, cents=cents, **addressed()
        )
        for usd, amount, cents in terms
    ]
    assert len({fingerprint(each) for each in asked}) == len(terms)


def test_names_are_the_same_in_every_version() -> None:
    assert key_hash(ADMISSION).hex() == "88ae6ecb1bd00eb94fb8741b2a822eb1"
    assert request_hash(ADMISSION).hex() == "f02dfbd9136e959fe587bafa89255a20"


@pytest.mark.parametrize(
    "changes", [{"correlation": "other"}, {"reply_instance": "b"}, {"reply_partition": 3}, {"actor": "key_9"}]
)
def test_who_waits_for_the_reply_is_no_part_of_a_fingerprint(changes: dict[str, Any]) -> None:
    assert fingerprint(msgspec.structs.replace(ADMISSION, **changes)) == fingerprint(ADMISSION)


def test_when_it_was_used_is_no_part_of_a_fingerprint_and_all_else_is() -> None:
    later = msgspec.structs.replace(ADMISSION, usage=usage(quantity=2, occurred_at_ms=1))
    assert fingerprint(later) == fingerprint(ADMISSION)
    for other in (usage(quantity=3), usage("e2", quantity=2), usage(quantity=2, job_id="j")):
        assert fingerprint(msgspec.structs.replace(ADMISSION, usage=other)) != fingerprint(ADMISSION)
    assert fingerprint(msgspec.structs.replace(ADMISSION, hold_seconds=5)) != fingerprint(ADMISSION)


@pytest.mark.parametrize(
    ("key", "detail"),
    [
        ("", "`key` is blank; send one of your own, or leave it out"),
        (" \t ", "`key` is blank; send one of your own, or leave it out"),
        ("k" * 256, "`key` has 256 characters; send 255 at most"),
        ("a\x1fb", "`key` has control characters; send one of printable characters"),
        ("a\x7fb", "`key` has control characters; send one of printable characters"),
    ],
)
def test_a_key_that_its_sender_can_not_have_meant_is_refused(key: str, detail: str) -> None:
    with pytest.raises(Rejection) as refused:
        check_key(key, "key")
    assert (refused.value.code, refused.value.detail, refused.value.field) == ("invalid_request", detail, "key")
    with pytest.raises(Rejection, match="`Idempotency-Key`"):
        check_key(key)


@pytest.mark.parametrize("key", ["k", "k" * 255, "a b", "\u00e9"])
def test_any_other_key_is_taken(key: str) -> None:
    check_key(key)


def test_the_reply_to_a_counted_request_is_not_kept() -> None:
    assert is_reply_kept(ADMISSION)
    assert not is_reply_kept(CountRequest(project="p1", operation="GET /", environment="production", **addressed()))
