"""The gateway in front of a small service, on the whole stack: which requests run, what they cost, and the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route as ServiceRoute

from api.stack import Stack
from streams.client.gateway import Charge, Gateway, Route
from streams.client.http_admissions import HttpAdmissions
from streams.client.http_producer import HttpProducer
from streams.client.kafka_admissions import KafkaAdmissions
from streams.client.kafka_producer import KafkaProducer
from streams.client.replayed_answers import ANSWER_BYTES_MAX
from streams.embedded import lifeline
from tests.calls import Operator, eventually


async def clip_details(request: Request) -> dict[str, Any]:
    return {"tier": json.loads(await request.body())["tier"], "metadata": {"customer_id": "globex"}}


ROUTES = [
    Route("POST", "/v1/messages", operation="chat.message", hold=False),
    Route("POST", "/v1/images", operation="image"),
    Route("POST", "/v1/clips", operation="video", details=clip_details),
    Route("POST", "/v1/{language}/posts", operation="blog_post"),
]


class Service:
    """The service behind the gateway. It does as the header `x-do` says, and notes what ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.charges: list[Charge] = []
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        endless = [ServiceRoute("/v1/endless", self.endless, methods=["POST"])]
        self.app = Starlette(routes=[*endless, ServiceRoute("/{path:path}", self.answer, methods=["GET", "POST"])])

    async def answer(self, request: Request) -> Response:
        do = request.headers.get("x-do", "")
        self.ran.append(request.url.path)
        charge = request.scope.get("meterline")
        if charge is not None:
            self.charges.append(charge)
        if do == "raise":
            raise RuntimeError("the upstream is gone")
        if do == "wait":
            self.entered.set()
            await self.go_on.wait()
        if do == "part":
            charge.capture("10")
        if do.startswith("units="):
            charge.capture(quantity=int(do.removeprefix("units=")))
        if do == "release":
            charge.release("nothing to show for it")
        if do == "keep":
            charge.keep()
        body = (await request.body()).decode()
        return JSONResponse({"body": body}, int(do) if do.isdigit() else 200)

    async def endless(self, request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 1024
                await asyncio.sleep(0.01)

        return StreamingResponse(chunks())


def project_of(scope: Any) -> str:
    return dict(scope["headers"]).get(b"x-project", b"").decode()


def gateway_of(stack: Stack, service: Service, **changes: Any) -> Gateway:
    parts: dict[str, Any] = {
        "admissions": KafkaAdmissions(stack.settings),
        "producer": KafkaProducer(stack.settings),
        "routes": ROUTES,
        "project_of": project_of,
    }
    return Gateway(service.app, **(parts | changes))


@asynccontextmanager
async def in_front_of(service: Service, stack: Stack, project: str, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway in front of the service."""
    async with gateway_of(stack, service, **changes) as gateway:
        transport = httpx.ASGITransport(gateway, raise_app_exceptions=False)
        headers = {"x-project": project} if project else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers) as client:
            yield client


Call = Callable[[httpx.AsyncClient, Service], Any]


def run(stack: Stack, project: str, call: Call, **changes: Any) -> Service:
    """Run a scenario against a gateway, and return the service with what it noted."""

    async def scenario() -> Service:
        service = Service()
        async with in_front_of(service, stack, project, **changes) as client:
            await call(client, service)
        return service

    return asyncio.run(scenario())


def balance(operator: Operator, project: str) -> tuple[str, str]:
    """The credits of a project, as (available, held)."""
    found = operator.http.get("/v1/balance", params={"project": project}).json()
    return found["available"], found["held"]


def facts(stack: Stack, operator: Operator, project: str) -> dict[str, int]:
    """The number of facts of each kind that a project has about uses."""
    kinds = "'charge', 'hold', 'release', 'refusal', 'duplicate'"
    sql = f"SELECT kind, count() FROM facts WHERE project = '{project}' AND kind IN ({kinds}) GROUP BY kind"
    return {kind: int(count) for kind, count in operator.rows(stack.clickhouse_url, sql)}


def test_an_admitted_request_runs_is_charged_and_says_how_the_window_stands(stack: Stack, operator: Operator) -> None:
    project = operator.project()

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        answer = await client.post("/v1/messages", content="hello", headers={"x-request-id": "mine"})
        assert (answer.status_code, answer.json()) == (200, {"body": "hello"})
        assert answer.headers["x-request-id"] == "mine"
        assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("30", "29")
        assert "retry-after" not in answer.headers

    service = run(stack, project, call)
    assert service.charges[0].decision.credits == 1
    eventually(lambda: balance(operator, project) == ("249", "0"))
    # The usage event came too, and was not billed again.
    eventually(lambda: facts(stack, operator, project) == {"charge": 1, "duplicate": 1})


@pytest.mark.parametrize(
    ("do", "charged"),
    [("201", True), ("404", True), ("500", False), ("503", False), ("raise", False), ("release", False)],
)
def test_a_hold_is_captured_or_released_by_what_became_of_the_request(
    stack: Stack, operator: Operator, do: str, charged: bool
) -> None:
    project = operator.project()

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        answer = await client.post("/v1/images", headers={"x-do": do})
        assert answer.status_code == (int(do) if do.isdigit() else 500 if do == "raise" else 200)

    run(stack, project, call)
    eventually(lambda: balance(operator, project) == ("218" if charged else "250", "0"))
    expected = {"hold": 1, "charge": 1, "duplicate": 1} if charged else {"hold": 1, "release": 1}
    eventually(lambda: facts(stack, operator, project) == expected)


@pytest.mark.parametrize(("do", "charged"), [("units=0", 0), ("units=3", 3), ("units=20", 20), ("part", 10), ("", 20)])
def test_what_was_measured_is_charged_by_quantity_or_in_credits(
    stack: Stack, operator: Operator, do: str, charged: int
) -> None:
    project = operator.project()
    routes = [Route("POST", "/v1/chat", operation="chat.message", details={"quantity": 20})]

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        assert (await client.post("/v1/chat", headers={"x-do": do})).status_code == 200

    run(stack, project, call, routes=routes)
    eventually(lambda: balance(operator, project) == (str(250 - charged), "0"))


def test_without_credits_a_request_does_not_run(stack: Stack, operator: Operator) -> None:
    project = operator.project()

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        for _ in range(4):
            assert (await client.post("/v1/de/posts")).status_code == 200
        refused = await client.post("/v1/images")
        assert refused.status_code == 402
        assert refused.headers["content-type"] == "application/problem+json"
        problem = refused.json()
        assert (problem["code"], problem["status"], problem["available"]) == ("out_of_credits", 402, "10")
        assert problem["instance"] == refused.headers["x-request-id"]
        assert problem["detail"].startswith("image costs 32 credits; 10 are available. ")
        assert refused.headers["x-ratelimit-remaining"] == "25"
        assert "retry-after" not in refused.headers

    service = run(stack, project, call)
    assert service.ran == ["/v1/de/posts"] * 4
    eventually(lambda: facts(stack, operator, project).get("refusal") == 1)
    eventually(lambda: balance(operator, project) == ("10", "0"))


def test_a_full_window_is_a_429_with_retry_after(stack: Stack, operator: Operator) -> None:
    project = operator.project()

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        answers = await asyncio.gather(*(client.get(f"/pages/{number}") for number in range(70)))
        limited = [each for each in answers if each.status_code == 429]
        assert (len(limited), len(service.ran)) == (10, 60)
        assert limited[0].json()["code"] == "rate_limited"
        assert limited[0].headers["x-ratelimit-remaining"] == "0"
        assert 0 < int(limited[0].headers["retry-after"]) <= 60

    run(stack, project, call)
    # Requests that cost nothing are on record all the same.
    eventually(lambda: facts(stack, operator, project) == {"charge": 60, "duplicate": 60, "refusal": 10})


def test_the_details_are_computed_from_a_body_that_the_service_still_reads(stack: Stack, operator: Operator) -> None:
    hobby, build = operator.project("hobby"), operator.project("build")

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        premium = b'{"tier": "premium"}'
        gated = await client.post("/v1/clips", content=premium)
        assert (gated.status_code, gated.json()["code"]) == (402, "plan_required")
        assert (await client.post("/v1/clips", content=b'{"tier": "budget"}')).status_code == 200
        answer = await client.post("/v1/clips", content=premium, headers={"x-project": build})
        assert answer.json() == {"body": premium.decode()}

    run(stack, hobby, call)
    eventually(lambda: balance(operator, hobby) == ("4960", "0"))
    eventually(lambda: balance(operator, build) == ("24700", "0"))


def test_the_service_captures_a_part(stack: Stack, operator: Operator) -> None:
    project = operator.project()

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        # The service says itself what to charge, and that stands, whatever status it answers.
        assert (await client.post("/v1/images", headers={"x-do": "part"})).status_code == 200

    run(stack, project, call)
    eventually(lambda: balance(operator, project) == ("240", "0"))


def test_a_job_that_goes_on_keeps_its_hold(stack: Stack, operator: Operator) -> None:
    project = operator.project()

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        keyed = {"x-do": "keep", "idempotency-key": "job"}
        assert (await client.post("/v1/images", headers=keyed)).status_code == 200
        assert (await client.post("/v1/images", headers=keyed)).status_code == 200

    service = run(stack, project, call)
    eventually(lambda: balance(operator, project) == ("218", "32"))
    first, again = (charge.decision for charge in service.charges)
    assert (first.already_decided, again.already_decided, again.hold_id) == (False, True, first.hold_id)

    async def end_job() -> None:
        async with KafkaAdmissions(stack.settings) as admissions:
            assert (await admissions.capture(project, first.hold_id)).credits == 32

    asyncio.run(end_job())
    eventually(lambda: balance(operator, project) == ("218", "0"))


def test_a_clients_retry_is_charged_once(stack: Stack, operator: Operator) -> None:
    project = operator.project()

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        keyed = {"idempotency-key": "mine"}
        failed = await client.post("/v1/images", headers=keyed | {"x-do": "502"})
        assert failed.status_code == 502
        assert (await client.post("/v1/images", headers=keyed)).status_code == 200
        again = await client.post("/v1/images", headers=keyed)
        assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
        assert again.headers["x-ratelimit-remaining"] == "27"
        assert len(service.ran) == 2
        other = await client.post("/v1/images", content="another body", headers=keyed)
        assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
        assert len(service.ran) == 2
        # Another request is another charge, whatever its key.
        assert (await client.post("/v1/de/posts", headers=keyed)).status_code == 200
        assert (await client.post("/v1/fr/posts", headers=keyed)).status_code == 200

    run(stack, project, call)
    eventually(lambda: balance(operator, project) == (str(250 - 32 - 2 * 60), "0"))


def test_a_repeat_whose_answer_is_not_kept_is_told_so_in_the_customers_words(stack: Stack, operator: Operator) -> None:
    project = operator.project()
    large = b"x" * ANSWER_BYTES_MAX

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        keyed = {"idempotency-key": "large"}
        assert (await client.post("/v1/images", content=large, headers=keyed)).status_code == 200
        again = await client.post("/v1/images", content=large, headers=keyed)
        assert (again.status_code, again.json()["code"]) == (409, "idempotency_reply_expired")
        assert again.json()["title"] == "Already done" and "ledger" not in again.text
        assert "x-ratelimit-limit" in again.headers
        assert len(service.ran) == 1

    run(stack, project, call)
    eventually(lambda: balance(operator, project) == ("218", "0"))


def test_a_customer_is_not_told_what_the_platform_has_to_put_right(
    stack: Stack, operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    """A project that was never opened, and routes that ask for what can't be: the remedy is in the platform's log."""
    wrong = [
        Route("POST", "/quantity", "image", details=lambda _: {"quantity": -1}),
        Route("POST", "/operation", "no.such"),
    ]

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        unknown = await client.post("/v1/images", headers={"x-project": "never_opened"})
        assert (unknown.status_code, unknown.json()["title"]) == (404, "Account not ready")
        answers = [unknown, await client.post("/quantity"), await client.post("/operation")]
        for answer in answers:
            problem = answer.json()
            assert "field" not in problem and "tell support the id of this request" in problem["detail"], problem
            said = problem["title"] + problem["detail"]
            assert not any(word in said for word in ("mtl_", "/v1/", "seconds", "project", "price book", "operation"))
            assert problem["instance"] in caplog.text
        assert "Create the project first" in caplog.text and "expected `int` >= 1" in caplog.text
        assert service.ran == []

    run(stack, operator.project(), call, routes=wrong + ROUTES)


def test_a_service_that_knows_its_keys_gets_the_retry(stack: Stack, operator: Operator) -> None:
    project = operator.project()

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        for _ in range(3):
            assert (await client.post("/v1/images", headers={"idempotency-key": "k"})).status_code == 200
        assert [charge.decision.already_decided for charge in service.charges] == [False, True, True]

    run(stack, project, call, repeats="run")
    eventually(lambda: balance(operator, project) == ("218", "0"))


def test_what_was_charged_and_failed_runs_once_more_for_nothing(stack: Stack, operator: Operator) -> None:
    project = operator.project()

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        keyed = {"idempotency-key": "k"}
        statuses = [
            (await client.post("/v1/messages", headers=keyed | {"x-do": do})).status_code for do in ("500", "", "")
        ]
        assert statuses == [500, 200, 200]
        assert service.ran == ["/v1/messages"] * 2

    run(stack, project, call)
    eventually(lambda: balance(operator, project) == ("249", "0"))


def test_the_same_key_does_not_run_twice_at_once(stack: Stack, operator: Operator) -> None:
    project = operator.project()

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        keyed = {"idempotency-key": "k", "x-do": "wait"}
        first = asyncio.create_task(client.post("/v1/images", headers=keyed))
        await service.entered.wait()
        again = await client.post("/v1/images", headers=keyed)
        assert (again.status_code, again.json()["code"]) == (409, "already_running")
        assert again.headers["retry-after"] == "1"
        # It is a request as any other, and may be one too many.
        assert again.headers["x-ratelimit-remaining"] == "28"
        statuses = [(await client.post("/v1/images", headers=keyed)).status_code for _ in range(60)]
        assert statuses == [409] * 58 + [429] * 2
        service.go_on.set()
        assert (await first).status_code == 200

    run(stack, project, call)
    eventually(lambda: balance(operator, project) == ("218", "0"))


@pytest.mark.parametrize("keys", [[""], ["a", "b"], ["a", "a"], ["k" * 256]])
def test_what_can_be_no_key_is_refused_and_counted(stack: Stack, operator: Operator, keys: list[str]) -> None:
    project = operator.project()

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        for path in ("/v1/images", "/v1/messages"):
            refused = await client.post(path, headers=[("x-project", project)] + [("idempotency-key", k) for k in keys])
            problem = refused.json()
            assert (refused.status_code, problem["field"]) == (422, "Idempotency-Key")
            assert "`Idempotency-Key`" in problem["detail"]
        assert refused.headers["x-ratelimit-remaining"] == "28"
        assert service.ran == []

    run(stack, project, call)


def test_a_clients_repeat_is_a_request_and_is_charged_once(stack: Stack, operator: Operator) -> None:
    project = operator.project()

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        for remaining in ("29", "28", "27"):
            answer = await client.post("/v1/messages", headers={"idempotency-key": "k"})
            assert (answer.status_code, answer.json()) == (200, {"body": ""})
            assert answer.headers.get("idempotent-replayed") == (None if remaining == "29" else "true")
            assert answer.headers["x-ratelimit-remaining"] == remaining

    run(stack, project, call)
    eventually(lambda: balance(operator, project) == ("249", "0"))


def test_who_has_no_project_sees_only_what_costs_nothing(stack: Stack) -> None:
    async def call(client: httpx.AsyncClient, service: Service) -> None:
        assert (await client.get("/healthz")).status_code == 200
        nobody = await client.post("/v1/images")
        assert (nobody.status_code, nobody.json()["code"]) == (401, "unauthenticated")
        assert service.ran == ["/healthz"]

    run(stack, "", call)


def test_others_may_pass_uncounted(stack: Stack, operator: Operator) -> None:
    project = operator.project()

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        assert "x-ratelimit-limit" not in (await client.get("/pages/1")).headers
        assert (await client.post("/v1/messages")).headers["x-ratelimit-remaining"] == "29"

    run(stack, project, call, others="pass")


def test_it_works_over_http_as_well(stack: Stack, operator: Operator) -> None:
    project = operator.project()
    key = operator.key(project)["key"]

    async def call(client: httpx.AsyncClient, service: Service) -> None:
        assert (await client.post("/v1/images")).status_code == 200
        assert (await client.post("/v1/images", headers={"x-do": "500"})).status_code == 500
        for _ in range(3):
            assert (await client.post("/v1/de/posts")).status_code == 200
        assert (await client.post("/v1/de/posts")).status_code == 402

    run(stack, project, call, admissions=HttpAdmissions(stack.url, key), producer=HttpProducer(stack.url, key))
    eventually(lambda: balance(operator, project) == ("38", "0"))


def test_a_client_that_goes_away_in_the_middle_is_charged(stack: Stack, operator: Operator) -> None:
    """A real server serves the gateway here, which starts and stops with the service's lifespan."""
    project = operator.project()

    async def scenario() -> None:
        routes = [Route("POST", "/v1/endless", operation="image")]
        gateway = gateway_of(stack, Service(), routes=routes)
        port = lifeline.free_port()
        server = uvicorn.Server(uvicorn.Config(gateway, port=port, log_level="warning"))
        serving = asyncio.create_task(server.serve())
        try:
            while not server.started:
                await asyncio.sleep(0.01)
            async with (
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"x-project": project}) as client,
                client.stream("POST", "/v1/endless") as answer,
            ):
                async for _ in answer.aiter_bytes():
                    break
            await asyncio.to_thread(eventually, lambda: balance(operator, project) == ("218", "0"))
        finally:
            server.should_exit = True
            await serving

    asyncio.run(scenario())
    eventually(lambda: facts(stack, operator, project) == {"hold": 1, "charge": 1, "duplicate": 1})
