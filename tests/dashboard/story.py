"""A story: one project to which most things have happened that a page can show, through the whole stack.

`tell` takes a few seconds. Meterline is asked as anybody would, so each page has what it shows in life.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from api.stack import Stack
from streams.kafka.publisher import Publisher
from streams.kafka.topics import topics_of
from tests.calls import Operator, eventually

CUSTOMERS = ("globex", "initech", "umbrella", "hooli", "stark")
# (operation, how often, quantity): what the project's customers do.
_USES = (("chat.message", 24, 1), ("image", 8, 2), ("translation", 6, 3), ("page.edit", 10, 1), ("blog_post", 2, 1))
# So many images cost more than the project has, more than it may spend in a minute, or that the second time.
_TOO_DEAR, _TOO_MUCH, _MUCH, _CEILING = 3_000, 800, 80, "5000"
_OF_ONE = {"customer_id": CUSTOMERS[0], "team": "team-0"}
_BOOK_DAYS = 60
# One of the first customer's, of whom most pages tell.
_EVENT_ID = "use-image-1"


@dataclass(frozen=True, slots=True)
class Story:
    """The names of what there is once a story is told: a path of the table of pages has them in braces. Keys are of the
    project's production and preview; `admin_key` is the owner's."""

    project: str
    key: str
    preview_key: str
    admin_key: str
    key_id: str
    customer: str
    month: str
    billing_account: str
    endpoint_id: str
    failing_endpoint_id: str
    hold_id: str
    request_id: str
    refused_request_id: str
    entry_id: str
    source: str
    event_id: str
    notice_id: str
    dead_letter_id: str
    raise_id: str
    price_version: str = ""

    def filled(self, path: str) -> str:
        """A path with the story's names in the place of those in braces."""
        return path.format(**asdict(self))


@contextmanager
def told(stack: Stack, project: str = "") -> Iterator[Story]:
    """A story that has been told to a stack. A receiver of its webhooks listens while the block runs."""
    with _receiver() as url:
        yield tell(stack, Operator(stack), url, project)


@contextmanager
def with_announced_prices(operator: Operator, story: Story) -> Iterator[Story]:
    """The story while dearer prices are announced; they are withdrawn at the end, since no book may be announced for an
    earlier time than the last."""
    version = f"story-{secrets.token_hex(4)}"
    book = {"version": version, "effective_at": _in(timedelta(days=_BOOK_DAYS)), "note": "pictures are larger"}
    _done(operator.http.post("/v1/admin/price-books", json={**book, "rates": {"image": "36", "read": "0.9"}}))
    try:
        yield replace(story, price_version=version)
    finally:
        _done(operator.http.delete(f"/v1/admin/price-books/{version}"))


def tell(stack: Stack, operator: Operator, receiver_url: str, project: str = "") -> Story:
    """Let all of it happen, and wait until the history has it."""
    project = project or f"acme-{secrets.token_hex(3)}"
    admin, of_project = operator.http, f"/v1/admin/projects/{project}"
    account = f"acct-{secrets.token_hex(3)}"
    _done(admin.post("/v1/admin/billing-accounts", json={"id": account, "name": "Acme", "email": "pay@acme.example"}))
    _done(admin.post("/v1/admin/projects", json={"project": project, "name": "Acme", "plan": "build"}))
    _done(admin.put(f"{of_project}/billing-account", json={"billing_account": account}))
    made = operator.key(project)
    preview = operator.key(project, "preview")["key"]
    client = operator.client(made["key"])
    _done(admin.post(f"{of_project}/top-ups", json={"bundle_usd": 20}))
    gift = {"amount": "500.5", "reason": "sorry for the outage", "expires_at": _in(timedelta(days=9))}
    for amount, environment in ((gift["amount"], "production"), ("200", "preview")):
        _done(admin.post(f"{of_project}/grants", json=gift | {"amount": amount, "environment": environment}))
    endpoints = [
        _done(client.post("/v1/webhook-endpoints", json={"target": f"{receiver_url}/{path}"}))["id"]
        for path in ("taken", "failing")
    ]
    raised = _limits(admin, of_project)
    granted = float(_done(client.get("/v1/balance"))["available"])
    rules = [{"credits": str(int(granted) - 200)}, {"percent": 50}]
    _done(client.put("/v1/notice-rules", json={"environment": "production", "rules": rules}))
    charge, refusal = _uses(client)
    _preview_uses(operator.client(preview))
    hold_id = _holds(client)
    _operator_acts(admin, client, of_project, endpoints[0])
    letter = _dead_letter(stack, operator)
    found = _seen_in_history(client, admin, project, endpoints)
    return Story(
        project=project, key=made["key"], preview_key=preview, admin_key=stack.admin_key, key_id=made["key_id"],
        customer=CUSTOMERS[0], month=datetime.now(UTC).strftime("%Y-%m"), billing_account=account,
        endpoint_id=endpoints[0], failing_endpoint_id=endpoints[1], hold_id=hold_id,
        request_id=charge.headers["x-request-id"], refused_request_id=refusal.headers["x-request-id"],
        source="gateway", event_id=_EVENT_ID, dead_letter_id=letter, raise_id=raised, **found,
    )  # fmt: skip


def _limits(admin: httpx.Client, of_project: str) -> str:
    _done(admin.put(f"{of_project}/limits", json={"cost_ceiling": "900", "is_shadow": True, "reason": "on trial"}))
    raised = {"requests_per_minute": 5000, "burst": 9000, "cost_ceiling": _CEILING}
    raised |= {"ends_at": _in(timedelta(hours=6)), "reason": "a launch"}
    return str(_done(admin.post(f"{of_project}/limit-raises", json=raised))["id"])


def _uses(client: httpx.Client) -> tuple[httpx.Response, httpx.Response]:
    """Charges of all customers, and refusals of three kinds; the answers to one of each."""
    number, charge = 0, None
    for operation, times, quantity in _USES:
        for each in range(times):
            metadata = {"customer_id": CUSTOMERS[number % len(CUSTOMERS)], "team": f"team-{number % 3}"}
            named = {"id": f"use-{operation}-{each}", "source": "gateway", "metadata": metadata}
            charge = client.post("/v1/admissions", json={"operation": operation, "quantity": quantity, **named})
            _done(charge)
            number += 1
    assert charge is not None
    answers = [
        client.post("/v1/admissions", json={"operation": "image", "quantity": quantity, "metadata": _OF_ONE})
        for quantity in (_TOO_DEAR, _TOO_DEAR, _TOO_MUCH, _MUCH, _MUCH, _MUCH, _MUCH)
    ]
    assert [each.status_code for each in answers] == [402, 402, 403, 200, 429, 429, 429]
    return charge, answers[0]


def _preview_uses(client: httpx.Client) -> None:
    for number in range(3):
        metadata = {"customer_id": CUSTOMERS[number]}
        _done(client.post("/v1/admissions", json={"operation": "chat.message", "metadata": metadata}))


def _holds(client: httpx.Client) -> str:
    """A hold that was captured, one that was released, and two that are open; the id of an open one."""
    ids = []
    for job in ("job-captured", "job-released", "job-open", "job-waiting"):
        asked = {"operation": "blog_post", "hold": True, "job_id": job, "metadata": {"customer_id": CUSTOMERS[0]}}
        ids.append(_done(client.post("/v1/admissions", json=asked))["hold_id"])
    _done(client.post(f"/v1/holds/{ids[0]}/capture"))
    _done(client.post(f"/v1/holds/{ids[1]}/release"))
    return str(ids[2])


def _operator_acts(admin: httpx.Client, client: httpx.Client, of_project: str, endpoint: str) -> None:
    terms = {"on": True, "threshold": "100", "bundle_usd": 20, "cap_usd": 100, "payment_method": "pm_card_visa"}
    admin.put(f"{of_project}/auto-recharge", json=terms)
    _done(client.post(f"/v1/webhook-endpoints/{endpoint}/test"))


def _dead_letter(stack: Stack, operator: Operator) -> str:
    """Put a record on Kafka that is no event; the id of its dead letter."""
    mark = secrets.token_hex(6)

    async def publish() -> None:
        publisher = Publisher(stack.settings)
        await publisher.start()
        await publisher.send_all(topics_of(stack.settings).usage, 0, [(None, f'{{"mark": "{mark}"'.encode())])
        await publisher.stop()

    asyncio.run(publish())

    def found() -> list[str]:
        listed = operator.http.get("/v1/admin/dead-letters").json().get("dead_letters", [])
        return [each["id"] for each in listed if mark in each["event"]]

    return str(eventually(found)[0])


def _seen_in_history(client: httpx.Client, admin: httpx.Client, project: str, endpoints: list[str]) -> dict[str, str]:
    """Wait until the history has all of it: what was billed, the notices, and attempts of both endpoints."""
    uses = sum(times for _, times, _ in _USES)
    question = {"limit": 1000, "project": project}
    # The release was decided after all the uses and the capture.
    released = {"project": project, "state": "released"}
    eventually(lambda: admin.get("/v1/holds/settled", params=released).json().get("holds"))

    def entries() -> list[dict[str, Any]] | None:
        found = admin.get("/v1/ledger", params=question).json().get("entries", [])
        return found if sum(each["kind"] == "charge" for each in found) > uses else None

    def attempts(endpoint: str, is_delivered: bool) -> bool:
        asked = f"/v1/webhook-endpoints/{endpoint}/deliveries"
        found = admin.get(asked, params={"project": project}).json().get("deliveries", [])
        return any(each["delivered"] is is_delivered for each in found)

    ledger = eventually(entries)
    eventually(lambda: attempts(endpoints[0], True) and attempts(endpoints[1], False))
    notices = eventually(lambda: client.get("/v1/notices").json().get("notices"))
    charge = next(each for each in ledger if each["event_id"] == _EVENT_ID)
    return {"entry_id": charge["entry_id"], "notice_id": notices[0]["id"]}


@contextmanager
def _receiver() -> Iterator[str]:
    """A receiver of webhooks while the block runs: what comes to /failing fails. Gives its URL."""

    class _Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", "0")))
            self.send_response(500 if self.path.startswith("/failing") else 200)
            self.send_header("content-length", "2")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever, name="receiver", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _done(answer: httpx.Response) -> Any:
    assert answer.is_success, f"{answer.request.method} {answer.request.url}: {answer.text}"
    return answer.json() if answer.content else None


def _in(time: timedelta) -> str:
    return (datetime.now(UTC) + time).isoformat()
