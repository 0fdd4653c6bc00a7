"""Webhooks on the dashboard: an endpoint's life, its secret shown once, its health and attempts; the platform's own."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from api.stack import Stack
from streams.kafka.clock import now_ms
from tests.api.test_webhooks import attempt, report
from tests.calls import Operator, eventually
from tests.dashboard.readers import DashboardReader, text_of, token_of

HOOKS = "/dashboard/webhooks"
URL = "/v1/webhook-endpoints"
NEW = {"kind": "webhook", "target": "https://acme.invalid/hook", "description": "Shop", "hears-project.*": "on"}


def test_an_endpoint_is_made_and_its_secret_is_in_that_answer_alone(operator: Operator) -> None:
    project, client = operator.customer("build")
    reader = DashboardReader(operator.url, operator.key(project)["key"])
    page = reader.open(HOOKS)
    assert "No endpoint hears of notices yet" in page
    wrong = reader.send(page, 'id="kind"', **NEW | {"target": "ftp://acme.invalid"})
    assert wrong.status_code == 422 and 'id="target-wrong"' in wrong.text and "ftp://acme.invalid" in wrong.text
    made = reader.send(page, 'id="kind"', **NEW)
    assert made.status_code == 200 and made.headers["cache-control"] == "no-store"
    secret = re.search(r"whsec_[A-Za-z0-9+/=]+", made.text)
    assert secret is not None and "Shown once" in made.text
    # The same form, sent again, makes no second endpoint.
    assert secret[0] in reader.send(page, 'id="kind"', **NEW).text
    endpoints = client.get(URL).json()["endpoints"]
    assert [(each["description"], each["event_types"]) for each in endpoints] == [("Shop", ["project.*"])]
    one = f"{HOOKS}/{endpoints[0]['id']}"
    assert secret[0] not in reader.open(HOOKS) + reader.open(one)
    rotated = reader.send(reader.open(one), 'value="rotate"')
    assert "whsec_" in rotated.text and secret[0] not in rotated.text and "the secret before it too" in rotated.text


def test_an_endpoint_is_paused_changed_resumed_replayed_and_deleted(operator: Operator) -> None:
    project, client = operator.customer("build")
    made = client.post(URL, json={"target": "https://acme.invalid/hook"}).json()
    reader = DashboardReader(operator.url, operator.key(project)["key"])
    one = f"{HOOKS}/{made['id']}"

    def done(act: str, **fields: str) -> None:
        answer = reader.send(reader.open(one), f'name="act" value="{act}"', **fields)
        assert answer.status_code == 303, text_of(answer.text)

    def now() -> dict[str, object]:
        found: dict[str, object] = client.get(f"{URL}/{made['id']}").json()
        return found

    done("test")
    done("pause")
    assert now()["state"] == "paused" and 'value="test"' not in reader.open(one)
    done("resume")
    done("change", **{"hears-hold.expired": "on", "environment": "preview", "ordered": "on", "description": "Jobs"})
    changed = now()
    assert (changed["description"], changed["environments"], changed["ordered"]) == ("Jobs", ["preview"], True)
    assert set(changed["event_types"]) == {"*", "hold.expired"} or changed["event_types"] == ["hold.expired"]
    since = reader.send(reader.open(one), 'value="replay"', since="2020-01-01T00:00", which="failed")
    assert since.status_code == 422 and "within the last 30 days" in since.text
    assert reader.send(reader.open(one), 'value="replay"', since="soon", which="all").status_code == 422
    assert reader.send(reader.open(one), 'value="test"', act="nothing").status_code == 422
    done("delete")
    assert "no endpoint" in reader.open(one, 404)


def test_health_and_attempts_are_told_and_each_is_sent_again(stack: Stack, operator: Operator) -> None:
    project, client = operator.customer("build")
    made = client.post(URL, json={"target": "https://acme.invalid/hook", "event_types": ["payment.*"]}).json()
    at_ms = now_ms()
    report(
        stack,
        attempt(project, made["id"], 1, at_ms - 60_000, status=200, is_delivered=True, next_at_ms=0),
        attempt(project, made["id"], 2, at_ms - 30_000),
        attempt(project, made["id"], 3, at_ms - 10_000, status=0, error="no route", next_at_ms=at_ms + 900_000),
    )
    reader = DashboardReader(operator.url, operator.key(project)["key"])
    one = f"{HOOKS}/{made['id']}"
    # The attempt that was reported last: those of the endpoint's test notice fail too.
    eventually(lambda: "no route" in reader.open(f"{one}/attempts?notice=ntc-0-1-0", is_part=True))
    health = client.get(f"{URL}/{made['id']}/health").json()
    assert health["failures_in_a_row"] >= 2
    assert health["last_delivered_at"] is not None and health["waiting"] >= 1 and health["attempts"] >= 3
    part = text_of(reader.open(f"{one}/health", is_part=True))
    assert "in a row failed" in part and "wait" in part
    assert "in a row failed" in text_of(reader.open(f"{HOOKS}/cards", is_part=True))
    attempts = reader.open(f"{one}/attempts?notice=ntc-0-1-0", is_part=True)
    assert "no route" in attempts and "500" in attempts and "<pre" in attempts
    taken = reader.open(f"{one}/attempts?notice=ntc-0-1-0&outcome=delivered", is_part=True)
    assert "no route" not in taken and "200" in taken
    again = reader.send(attempts, 'value="ntc-0-1-0"')
    assert again.headers["location"] == f"{one}?done=replayed"


class _Gone(BaseHTTPRequestHandler):
    """A receiver that asks for no more."""

    def do_POST(self) -> None:
        self.send_response(410)
        self.send_header("content-length", "0")
        self.end_headers()


@pytest.fixture
def gone() -> Iterator[str]:
    """The URL of a receiver that answers 410."""
    server = HTTPServer(("127.0.0.1", 0), _Gone)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook"
    server.shutdown()


def test_a_disabled_endpoint_says_so_and_why(operator: Operator, gone: str) -> None:
    project, client = operator.customer("build")
    made = client.post(URL, json={"target": gone, "description": "Shop"}).json()
    eventually(lambda: client.get(f"{URL}/{made['id']}").json()["state"] == "disabled")
    reader = DashboardReader(operator.url, operator.key(project)["key"])
    assert "Disabled: Shop gets nothing any more" in text_of(reader.open(HOOKS))
    assert "This endpoint is disabled" in reader.open(f"{HOOKS}/{made['id']}")
    eventually(
        lambda: "it answered 410, and so asked" in text_of(reader.open(f"{HOOKS}/{made['id']}/health", is_part=True))
    )


def test_the_platforms_own_are_an_admins_and_roles_hold(stack: Stack, operator: Operator) -> None:
    admin = DashboardReader(operator.url, stack.admin_key)
    page = admin.open(HOOKS)
    assert "Webhooks of the platform" in page
    made = admin.send(page, 'id="kind"', **NEW | {"description": "Operations"})
    assert "whsec_" in made.text
    known = operator.http.get("/v1/admin/webhook-endpoints").json()["endpoints"]
    mine = next(each for each in known if each["description"] == "Operations")
    one = f"{HOOKS}/{mine['id']}"
    assert admin.send(admin.open(one), 'value="delete"').headers["location"] == f"{HOOKS}?done=deleted"
    project, client = operator.customer("build")
    theirs = client.post(URL, json={"target": "https://acme.invalid/hook"}).json()["id"]
    reader = DashboardReader(operator.url, operator.key(operator.project())["key"])
    assert theirs not in reader.open(HOOKS)
    reader.open(f"{HOOKS}/{theirs}?project={project}", 404)
    few = DashboardReader(operator.url, operator.key(project, scopes=["webhooks:read"])["key"])
    page = few.open(f"{HOOKS}/{theirs}")
    assert 'name="act"' not in page
    fields = {"csrf": token_of(page), "act": "delete"}
    assert few.http.post(f"{HOOKS}/{theirs}", data=fields).status_code == 403
