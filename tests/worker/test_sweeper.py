"""The sweeper reads an account's first fields without decoding the rest, and names the projects that are due."""

from schemas.accounts import Account
from streams.kafka.codecs import account_body, encode_account
from streams.worker.sweeper import _decode_due, _Due, _due


def account(project: str, due_at_ms: int) -> Account:
    return Account(project, "", "free", 1, 2, 3, [], [], 4, 5, 6, due_at_ms=due_at_ms)


def test_it_reads_the_first_fields_of_an_account() -> None:
    fields = _Due.__struct_fields__
    assert Account.__struct_fields__[: len(fields)] == fields
    value = encode_account(account("p1", 77))
    assert _decode_due(account_body(value)).due_at_ms == 77


def test_it_names_what_is_due() -> None:
    rows = [(b"k", encode_account(account(name, due))) for name, due in (("early", 10), ("now", 20), ("later", 21))]
    assert list(_due(rows, 20)) == ["early", "now"]
