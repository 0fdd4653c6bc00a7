"""Parameters are read strictly: those that a route does not have are refused by name, and none is there twice. And each
list of an answer has a bound."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from api.openapi_document import document
from schemas.http.credits import NewGrant
from schemas.http.limits import NewLimitRaise
from schemas.http.prices import NewPriceBook
from schemas.http.webhooks import ReplayRequest
from schemas.problems import Rejection
from streams.core.replies import check_key
from streams.http_answers import check_headers
from tests.api.isolation import CALLS, OPEN, PATHS
from tests.calls import Operator

DOCUMENT = json.loads(document())
# Probes and scrapers may add parameters of their own, against caches or by habit; nothing there could be meant by one.
LENIENT = {"GET /healthz", "GET /readyz"}
IDS = {"project": "prj_x", "id": "0-0-0", "month": "2026-01", "billing_account": "acme"}


def operations() -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    }


def query_of(operation: dict[str, Any]) -> list[str]:
    return [each["name"] for each in operation.get("parameters", []) if each["in"] == "query"]


def url_of(name: str) -> tuple[str, str]:
    method, path = name.split(" ")
    return method, path.format_map({each: IDS.get(each, "x") for each in PATHS})


def test_an_unknown_query_parameter_is_refused_by_name_on_every_route(operator: Operator) -> None:
    wrong = []
    for name, operation in operations().items():
        method, url = url_of(name)
        response = operator.http.request(method, url, params={"limti": "5"})
        if name in LENIENT:
            if response.status_code >= 500 and name != "GET /readyz" or "limti" in response.text:
                wrong.append(f"{name}: {response.text[:200]}")
            continue
        problem = response.json()
        named = all(f" {each}" in problem.get("detail", "") for each in query_of(operation))
        if (response.status_code, problem.get("code"), problem.get("field")) != (422, "invalid_request", "limti"):
            wrong.append(f"{name}: {response.text[:200]}")
        elif not named:
            wrong.append(f"{name} does not say which there are: {problem['detail']}")
    assert not wrong, "\n".join(wrong)


def test_a_query_parameter_that_is_there_twice_is_refused_on_every_route(operator: Operator) -> None:
    wrong = []
    for name, operation in operations().items():
        method, url = url_of(name)
        for parameter in query_of(operation):
            problem = operator.http.request(method, url, params=[(parameter, "1"), (parameter, "1")]).json()
            if (problem.get("code"), problem.get("field")) != ("invalid_request", parameter):
                wrong.append(f"{name} {parameter}: {problem}")
    assert not wrong, "\n".join(wrong)


def headers_refused(operator: Operator, headers: list[tuple[str, str]], field: str) -> list[str]:
    """The routes that do not refuse a call with these headers beside its own, naming the one that is wrong."""
    wrong, client = [], operator.client(None)
    for name, call in CALLS.items():
        if name in LENIENT:
            continue
        method, url = url_of(name)
        content = {} if call.body is None else {"content": json.dumps(call.body)}
        sent = [("authorization", operator.http.headers["authorization"]), ("content-type", call.media_type), *headers]
        response = client.request(method, url, headers=sent, **content)  # type: ignore[arg-type]
        problem = response.json()
        if (response.status_code, problem.get("field")) != (422, field) or f"`{field}`" not in problem["detail"]:
            wrong.append(f"{name}: {response.status_code} {response.text[:200]}")
    return wrong


@pytest.mark.parametrize("values", [[""], ["a", "b"], ["a", "a"], ["a", ""], ["", ""], ["k" * 256]])
def test_a_blank_or_doubled_idempotency_key_is_refused_on_every_route(operator: Operator, values: list[str]) -> None:
    wrong = headers_refused(operator, [("idempotency-key", value) for value in values], "Idempotency-Key")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "Bearer mtl_live_other.key"),
        ("Authorization", ""),
        ("Content-Type", "text/plain"),
        ("Content-Type", "application/json"),
    ],
)
def test_a_header_of_which_only_one_makes_sense_is_refused_twice_on_every_route(
    operator: Operator, name: str, value: str
) -> None:
    wrong = headers_refused(operator, [(name.lower(), value)], name)
    assert not wrong, "\n".join(wrong)


def test_one_authorization_sent_twice_is_refused_too_and_a_doubled_request_id_is_not_taken(operator: Operator) -> None:
    authorization = operator.http.headers["authorization"]
    assert headers_refused(operator, [("authorization", authorization)], "Authorization") == []
    twice = [("x-request-id", "one"), ("x-request-id", "two")]
    answer = operator.http.get("/v1/prices", headers=twice)
    assert answer.status_code == 200 and answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("key", ["", " ", "\t", "\u00a0", "k" * 256, "a\nb", "a\x00", "\x7f", "a\tb"])
def test_what_can_be_no_idempotency_key_is_refused_with_what_to_do(key: str) -> None:
    with pytest.raises(Rejection, match=r"^`Idempotency-Key` .*send") as refused:
        check_key(key)
    assert refused.value.field == "Idempotency-Key"
    headers = [(b"idempotency-key", key.encode("latin-1"))]
    with pytest.raises(Rejection, match="Idempotency-Key"):
        check_headers({"headers": headers})


@pytest.mark.parametrize("key", ["k", "k" * 255, "order 7", '"quoted"', "Zoë"])
def test_any_other_is_taken(key: str) -> None:
    check_key(key)
    check_headers({"headers": [(b"idempotency-key", key.encode()), (b"accept", b"a"), (b"accept", b"b")]})


@pytest.mark.parametrize("key", ["", "  ", "k" * 256, "a\u0000b"])
def test_a_request_of_a_batch_with_no_possible_key_is_refused_by_itself(operator: Operator, key: str) -> None:
    _, client = operator.customer()
    requests = [{"operation": "image", "idempotency_key": key}, {"operation": "image"}]
    decisions = client.post("/v1/admissions/batch", json={"requests": requests}).json()["decisions"]
    assert [each["status"] for each in decisions] == [422, 200], decisions
    assert "idempotency_key" in decisions[0]["detail"]


# The first is a day to whoever sends it; the others are a minute, seconds and milliseconds.
NUMBERS = ["20260301", "2026", "202603011200", "1767225600", "1767225600000"]


@pytest.mark.parametrize("number", NUMBERS)
def test_no_time_is_a_number_on_any_route(operator: Operator, number: str) -> None:
    wrong, asked = [], 0
    for name, operation in operations().items():
        method, url = url_of(name)
        for parameter in query_of(operation):
            if parameter not in ("from", "to", "at"):
                continue
            asked += 1
            problem = operator.http.request(method, url, params={parameter: number}).json()
            if problem["field"] != f"query.{parameter}" or "2026-03-01T09:30:00Z" not in problem["detail"]:
                wrong.append(f"{name}: {problem}")
    assert asked > 10 and not wrong, "\n".join(wrong)


def test_what_ends_before_it_begins_is_refused_on_every_route(operator: Operator) -> None:
    times = {"from": "2026-03-02T00:00:00Z", "to": "2026-03-01T00:00:00Z"}
    project, wrong, asked = operator.project(), [], 0
    for name, operation in operations().items():
        if not times.keys() <= set(query_of(operation)):
            continue
        asked += 1
        method, path = name.split(" ")
        url = path.format_map(dict.fromkeys(PATHS, "x") | {"project": project})
        more = {"project": project} if "project" in query_of(operation) else {}
        problem = operator.http.request(method, url, params=times | more).json()
        if (problem.get("code"), problem.get("field")) != ("invalid_request", "to"):
            wrong.append(f"{name}: {problem}")
        swapped = dict(zip(times, reversed(times.values()), strict=True))
        for fine in (swapped, dict.fromkeys(times, times["from"])):
            assert operator.http.request(method, url, params=fine | more).status_code == 200, name
    assert asked >= 7 and not wrong, "\n".join(wrong)


def test_no_time_of_a_body_is_a_number() -> None:
    fields = {
        f"{kind.__name__}.{name}": field
        for kind in (NewPriceBook, NewGrant, NewLimitRaise, ReplayRequest)
        for name, field in kind.model_fields.items()
        if "datetime" in str(field.annotation) or "datetime" in str(field.metadata)
    }
    assert len(fields) == 5
    for name, field in fields.items():
        with pytest.raises(ValidationError, match="2026-03-01T09:30:00Z"):
            TypeAdapter(field.rebuild_annotation()).validate_python(1_767_225_600)
        assert TypeAdapter(field.rebuild_annotation()).validate_python("2026-03-01T09:30:00Z"), name


def test_who_has_no_key_is_told_so_before_anything_else(operator: Operator) -> None:
    nobody = operator.client(None)
    assert nobody.get("/v1/balance", params={"limti": "5"}).json()["code"] == "unauthenticated"
    assert nobody.get("/v1/prices", params={"limti": "5"}).json()["field"] == "limti"


def unbounded(schema: Any, seen: frozenset[str] = frozenset(), where: str = "") -> list[str]:
    """The lists in a schema that say no bound."""
    if not isinstance(schema, dict):
        return []
    if reference := schema.get("$ref"):
        if reference in seen:
            return []
        name = reference.rpartition("/")[2]
        return unbounded(DOCUMENT["components"]["schemas"][name], seen | {reference}, f"{where}/{name}")
    found = [where] if schema.get("type") == "array" and not schema.get("maxItems") else []
    for name, each in schema.get("properties", {}).items():
        # A list that may be null has its bound beside the choice.
        bound = {"maxItems": each["maxItems"]} if "maxItems" in each else {}
        for choice in each.get("anyOf", [each]):
            found += unbounded(choice | bound, seen, f"{where}.{name}")
    return found + unbounded(schema.get("items"), seen, where)


def test_every_list_that_a_get_answers_says_its_bound() -> None:
    wrong = []
    for name, operation in operations().items():
        if name.startswith("GET "):
            content = operation["responses"]["200"].get("content", {})
            wrong += [f"{name}: {each}" for each in unbounded(content.get("application/json", {}).get("schema"))]
    assert not wrong, "\n".join(wrong)


def test_every_page_has_a_limit_and_a_cursor() -> None:
    for name, operation in operations().items():
        schema = operation["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
        shape = DOCUMENT["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
        is_page = "next_cursor" in shape.get("properties", {})
        assert is_page == ({"limit", "cursor"} <= set(query_of(operation))), name
        if is_page:
            (limit,) = [each for each in operation["parameters"] if each["name"] == "limit"]
            choices = limit["schema"].get("anyOf", [limit["schema"]])
            assert any(each.get("maximum") for each in choices), name


def test_all_that_is_open_is_known() -> None:
    assert {name for name, call in CALLS.items() if call.scope == OPEN} == LENIENT | {
        "GET /v1/prices",
        "GET /v1/prices/changelog",
    }
