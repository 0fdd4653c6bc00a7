"""Lean routes answer as FastAPI's own would: the same arguments, the same problems, the same bytes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, get_type_hints

import httpx
import msgspec
import pytest
from fastapi import APIRouter, Cookie, Depends, FastAPI, Path
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.responses import Response

from api import errors
from api.busyness import Busyness
from api.lean import LeanRoute, LeanRoutes
from api.middleware import Front
from api.routes.admissions import admit, admit_batch
from api.routes.balance import balance
from schemas.http.admissions import Admission, AdmissionAnswer, BatchAdmission, RateAnswer, RateInfo
from schemas.http.credits import (
    AllowanceAnswer,
    AllowanceBalance,
    Balance,
    BalanceAnswer,
    PromotionalAnswer,
    PromotionalBalance,
    TopUpAnswer,
    TopUpBalance,
)
from schemas.problems import Rejection
from streams.kafka.codecs import encode_json
from streams.settings import Settings

OF_THE_SERVICE = {"request", "services", "caller"}
ENDPOINTS = {"/balance": balance, "/admissions": admit, "/batch": admit_batch}

# Any text that can be in UTF-8, and the times of which answers tell.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.datetimes(datetime(1971, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC)).map(
    lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)
)
integers = st.integers(-(2**63), 2**63 - 1)


def _said(names: Callable[..., Any]) -> Callable[..., Any]:
    """An endpoint with the parameters of another that come from the request. It answers with their values."""

    async def said(**arguments: Any) -> bytes:
        return encode_json({name: repr(value) for name, value in arguments.items()})

    hints, signature = get_type_hints(names, include_extras=True), inspect.signature(names)
    kept = [
        each.replace(annotation=hints[each.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for each in signature.parameters.values()
        if each.name not in OF_THE_SERVICE
    ]
    assert kept, "there is nothing to compare"
    said.__signature__ = inspect.Signature(kept)  # type: ignore[attr-defined]
    return said


def _responding(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """The same endpoint in the form that FastAPI's own routes take: with all its defaults given by FastAPI."""

    async def responding(**arguments: Any) -> Response:
        return Response(await endpoint(**arguments), media_type="application/json")

    responding.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]
    return responding


def _app() -> FastAPI:
    lean, usual = APIRouter(prefix="/lean", route_class=LeanRoute), APIRouter(prefix="/usual")
    for path, endpoint in ENDPOINTS.items():
        lean.add_api_route(path, _with_defaults(_said(endpoint)), methods=["GET"])
        usual.add_api_route(path, _responding(_said(endpoint)), methods=["GET"])
    app = FastAPI()
    errors.install(app)
    app.include_router(lean)
    app.include_router(usual)
    app.add_middleware(LeanRoutes, routes=lean.routes)
    app.state.busyness = Busyness(50)
    app.add_middleware(Front, settings=Settings(public_requests_per_minute=1_000_000, public_burst=1_000_000))
    return app


def _with_defaults(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """The endpoint as a function whose own defaults stand for what is not given, as those of a written one do."""
    signature = inspect.signature(endpoint)

    async def defaulting(**arguments: Any) -> bytes:
        defaults = {name: each.default for name, each in signature.parameters.items()}
        answer: bytes = await endpoint(**(defaults | arguments))
        return answer

    defaulting.__signature__ = signature  # type: ignore[attr-defined]
    return defaulting


def _ask(app: FastAPI, paths: list[str], headers: dict[str, str], method: str = "GET") -> list[httpx.Response]:
    async def asked() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers) as http:
            return [await http.request(method, path) for path in paths]

    return asyncio.run(asked())


def _both(path: str, query: str, headers: dict[str, str]) -> list[httpx.Response]:
    return _ask(_app(), [f"/lean{path}{query}", f"/usual{path}{query}"], headers)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?",
        "?limit=1",
        "?limit=1000&cursor=abc",
        "?limit=0",
        "?limit=1001",
        "?limit=",
        "?limit=1.0",
        "?limit=x&min_offset=-1",
        "?limit=%2010",
        "?min_offset=0",
        "?min_offset=-1",
        "?min_offset=99999999999999999999999",
        "?at=2026-01-01T00:00:00Z",
        "?at=2026-01-01T00:00:00",
        "?at=2026-01-01T00:00:00%2B02:00",
        "?at=1700000000",
        "?at=soon",
        "?at=",
        "?environment=production",
        "?environment=preview",
        "?environment=staging",
        "?environment=",
        "?project=prj_1",
        "?project=",
        "?project=a/b&limit=x",
        "?project=%C3%A9",
        "?project=%ff",
        "?cursor=",
        f"?cursor={'c' * 200}",
        f"?cursor={'c' * 201}",
        "?Limit=5",
        "?limit",
        "?limit=1&limit=2",
    ],
)
def test_a_lean_balance_reads_its_parameters_as_fastapi_does(query: str) -> None:
    lean, usual = _both("/balance", query, {"x-request-id": "same"})
    assert (lean.status_code, lean.content) == (usual.status_code, usual.content)
    # Both are counted in one window, so those that tell of it differ.
    shown = [[each for each in answer.headers.raw if b"ratelimit" not in each[0]] for answer in (lean, usual)]
    assert shown[0] == shown[1] and list(lean.headers) == list(usual.headers)


@pytest.mark.parametrize("path", ["/admissions", "/batch"])
@pytest.mark.parametrize("key", [None, "a", "", " ", "k" * 255, "k" * 256, "%C3%A9", '"quoted"'])
def test_a_lean_admission_reads_its_idempotency_key_as_fastapi_does(path: str, key: str | None) -> None:
    headers = {"x-request-id": "same"} | ({"idempotency-key": key} if key is not None else {})
    lean, usual = _both(path, "", headers)
    assert (lean.status_code, lean.content) == (usual.status_code, usual.content)
    assert lean.status_code == (422 if key is not None and len(key) > 255 else 200)


def test_an_error_that_nobody_foresaw_is_a_500_with_its_headers_on_a_lean_route_too() -> None:
    router = APIRouter(route_class=LeanRoute)

    @router.get("/failing")
    async def failing() -> bytes:
        raise ValueError("a fault of ours")

    @router.get("/refusing")
    async def refusing() -> bytes:
        raise Rejection("not_ready", "Not yet")

    app = _app()
    app.include_router(router)
    app.add_middleware(LeanRoutes, routes=router.routes)
    # The layer added last would be outside of Front, which stands outside of all in the service.
    app.user_middleware.append(app.user_middleware.pop(0))
    failed, refused = _ask(app, ["/failing", "/refusing"], {"x-request-id": "mine"})
    assert failed.headers["x-request-id"] == "mine"
    assert (failed.status_code, failed.json()["code"], failed.headers["x-request-id"]) == (
        500,
        "internal_error",
        "mine",
    )
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "not_ready", "1")
    assert "x-ratelimit-limit" in failed.headers and "x-ratelimit-limit" in refused.headers


def test_another_method_on_a_lean_path_is_answered_by_fastapi() -> None:
    (answer,) = _ask(_app(), ["/lean/balance"], {}, "POST")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")


async def _takes_a_header(limit: int = 1) -> int:
    return limit


async def _of_a_path(item: Annotated[str, Path()]) -> bytes:
    raise AssertionError(item)


async def _of_a_body(asked: Admission) -> bytes:
    raise AssertionError(asked)


async def _of_a_cookie(crumb: Annotated[str, Cookie()] = "") -> bytes:
    raise AssertionError(crumb)


async def _of_a_required(limit: int) -> bytes:
    raise AssertionError(limit)


async def _of_another(limit: Annotated[int, Depends(_takes_a_header)]) -> bytes:
    raise AssertionError(limit)


@pytest.mark.parametrize("endpoint", [_of_a_path, _of_a_body, _of_a_cookie, _of_a_required, _of_another])
def test_a_signature_that_a_lean_route_does_not_read_in_full_is_refused_at_the_start(endpoint: Any) -> None:
    path = "/lean/{item}" if endpoint is _of_a_path else "/lean"
    with pytest.raises(AssertionError):
        APIRouter(route_class=LeanRoute).add_api_route(path, endpoint, methods=["POST"])


rates = st.builds(RateAnswer, integers, integers, times, st.none() | integers)


@given(
    st.builds(
        AdmissionAnswer,
        allowed=st.just(True),
        project=texts,
        operation=texts,
        credits=texts,
        available=texts,
        entry_id=texts,
        offset=integers,
        already_decided=st.booleans(),
        hold_id=st.none() | texts,
        hold_expires_at=st.none() | times,
        shadow_code=st.none() | texts,
    ),
    st.none() | rates,
)
def test_an_admission_is_sent_in_the_bytes_of_its_documented_shape(
    answer: AdmissionAnswer, rate: RateAnswer | None
) -> None:
    members = msgspec.structs.asdict(answer)
    documented = Admission(**{name: members[name] for name in Admission.model_fields})
    assert encode_json(answer) == documented.model_dump_json(exclude_none=True).encode()
    answer.status, answer.rate = 200, rate
    of_batch: dict[str, Any] = {"status": 200} | documented.model_dump(mode="json", exclude_none=True)
    if rate is not None:
        shown = RateInfo(**msgspec.structs.asdict(rate))
        of_batch["rate"] = shown.model_dump(mode="json", exclude_none=True)
    assert encode_json(answer) == encode_json(of_batch)


@given(
    st.builds(
        BalanceAnswer,
        project=texts,
        plan=texts,
        environment=st.sampled_from(["production", "preview"]),
        available=texts,
        held=texts,
        allowance=st.none() | st.builds(AllowanceAnswer, texts, texts, texts, times),
        promotional=st.lists(st.builds(PromotionalAnswer, texts, texts, texts, times, times), max_size=3),
        promotional_count=integers,
        promotional_remaining=texts,
        promotional_held=texts,
        top_ups=st.lists(st.builds(TopUpAnswer, texts, texts, texts, times), max_size=3),
        top_ups_count=integers,
        top_ups_remaining=texts,
        top_ups_held=texts,
        holds_count=st.none() | integers,
        spent_24h=st.none() | texts,
        empty_at=st.none() | times,
        renews_at=times,
        next_cursor=st.none() | texts,
        as_of=times,
        lag_ms=integers,
        offset=integers,
    )
)
def test_a_balance_is_sent_in_the_bytes_of_its_documented_shape(answer: BalanceAnswer) -> None:
    documented = Balance.model_validate(answer, from_attributes=True)
    assert encode_json(answer) == documented.model_dump_json().encode()


@pytest.mark.parametrize(
    ("sent", "documented"),
    [
        (AdmissionAnswer, BatchAdmission),
        (RateAnswer, RateInfo),
        (BalanceAnswer, Balance),
        (AllowanceAnswer, AllowanceBalance),
        (TopUpAnswer, TopUpBalance),
        (PromotionalAnswer, PromotionalBalance),
    ],
)
def test_what_is_sent_has_the_fields_that_are_documented(
    sent: type[msgspec.Struct], documented: type[BaseModel]
) -> None:
    assert set(sent.__struct_fields__) == set(documented.model_fields)
