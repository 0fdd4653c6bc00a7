"""Bodies that no client of ours would send, to every call that takes one: each is refused or taken, and none is a 500.

Schemathesis keeps to what is JSON (tests/api/test_openapi_contract.py); here it may be any bytes.
"""

from __future__ import annotations

import json
import random
import secrets
from typing import Any

import pytest

from api.openapi_document import DOCUMENT_PATH
from api.stack import Stack
from tests import seeds
from tests.calls import Operator
from tests.core.test_foreign import FAULTY, POISON

DOCUMENT = json.loads(DOCUMENT_PATH.read_text())
CALLS = [
    (method.upper(), path)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
    if "requestBody" in operation
]
# What a field of a body may be, as it is written in JSON, and in what some take for JSON.
VALUES = [
    rb'"\ud83d"',
    rb'"\ud83d\ude00\u0000"',
    b'"\xff\xfe"',
    b'"a\x01b"',
    b"01",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"1.5",
    b"-1",
    b"9" * 5000,
    b"9223372036854775808",
    b"null",
    b"{}",
    b'{"": ""}',
    b"[" * 998,
    b"[" * 900 + b"]" * 900,
    b'"' + b"x" * 200_000 + b'"',
    b'"0001-01-01T00:00:00+23:59"',
    b'"9999-12-31T23:59:59.999999-23:59"',
    b'"\\x"',
    b"tru",
]
SPOILERS = [b"", b"\xff", b'"', b"[", b"}", b",", b"\\u", b"9", b"\x00"]


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def body_of(method: str, path: str) -> dict[str, Any]:
    content = DOCUMENT["paths"][path][method.lower()]["requestBody"]["content"]
    return resolved(next(iter(content.values()))["schema"])


def sample(schema: dict[str, Any], name: str = "") -> Any:
    """A value of about the right shape, so that what is wrong is only what the test puts there."""
    schema = resolved(schema)
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return sample(schema[choice][0], name)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    kind = schema.get("type")
    if kind == "object":
        inner = schema.get("properties", {})
        return {each: sample(inner[each], each) for each in schema.get("required", [])}
    if kind == "array":
        return [sample(schema.get("items", {}), name)]
    if kind in ("integer", "number"):
        return max(1, schema.get("minimum", 1))
    return {"boolean": True, "string": "image" if name == "operation" else "x1"}.get(kind, "x1")


def bodies(method: str, path: str) -> list[bytes]:
    """Bodies for a call, other ones in each run: bytes that stop readers, every field spoilt once, and noise."""
    schema = body_of(method, path)
    whole = sample(schema)
    text = json.dumps(whole).encode()
    rng = random.Random(f"{seeds.BASE} {method} {path}")
    found = rng.sample([*POISON.values(), *FAULTY.values()], 5)
    for name in schema.get("properties", {}):
        others = [json.dumps(each) + ":" + json.dumps(value) for each, value in whole.items() if each != name]
        head = b"{" + ",".join([*others, json.dumps(name)]).encode() + b":"
        found += [head + value + b"}" for value in rng.sample(VALUES, 2)]
    for _ in range(6):
        spoilt = bytearray(text)
        at = rng.randrange(len(spoilt))
        spoilt[at : at + rng.randint(0, 3)] = rng.choice(SPOILERS)
        found += [bytes(spoilt), text[:at]]
    return found


@pytest.mark.parametrize(("method", "path"), CALLS, ids=lambda each: each.strip("/").replace("/", "-"))
def test_no_body_of_any_bytes_is_answered_with_a_500(stack: Stack, operator: Operator, method: str, path: str) -> None:
    restarts = stack.restarts
    is_admin = path.startswith("/v1/admin")
    project, client = (operator.project(), operator.http) if is_admin else operator.customer("scale")
    names = {"project": project, "item": "storage", "hold_id": "h-0-1-1", "billing_account": "b1", "version": "v"}
    url = path.format_map(names | {"key_id": "k", "raise_id": "r", "endpoint_id": "whe_0"})
    media_type = next(iter(DOCUMENT["paths"][path][method.lower()]["requestBody"]["content"]))
    if "price-books" in path or "rehearsals" in path:
        # A price book that is taken would be the stack's for all other tests, and each rehearsal reads all of history.
        client = operator.client(operator.key(project)["key"])
    for number, body in enumerate(bodies(method, path)):
        headers = {"content-type": media_type, "idempotency-key": f"{secrets.token_hex(4)}-{number}"}
        answer = client.request(method, url, content=body, headers=headers)
        assert answer.status_code < 500, (answer.status_code, answer.text, body[:200])
        assert len(answer.content) < 300_000
        if answer.status_code >= 400:
            assert answer.json()["code"], answer.text
    assert stack.restarts == restarts
