"""GET /v1/events/{source}/{id} on the whole stack: what became of an event, and of one that never came."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from urllib.parse import quote

import httpx
import pytest

from api.cli.events import report_text
from api.stack import Stack
from streams.client.kafka_producer import KafkaProducer
from tests.calls import Operator, event, eventually

BATCH = {"content-type": "application/cloudevents-batch+json"}

ODD_NAMES = [
    ("/tests", "plain"),
    ("/tests/deep/er", "a/b/c"),
    ("urn:x?y#z", "%2F"),
    ("ümläut & space", " /"),
    ("https://a.example//b/", "../../v1/balance"),
]


def path_of(source: str, event_id: str) -> str:
    return f"/v1/events/{quote(source, safe='')}/{quote(event_id, safe='')}"


def report(client: httpx.Client, source: str, event_id: str, **parameters: str) -> dict:
    response = client.get(path_of(source, event_id), params=parameters)
    assert response.status_code == 200, response.text
    found = response.json()
    assert (found["source"], found["event_id"]) == (source, event_id)
    assert report_text(found)
    return found


def until_seen(client: httpx.Client, source: str, event_id: str) -> dict:
    return eventually(lambda: (found := report(client, source, event_id))["state"] != "not_seen" and found)


def test_an_event_of_any_name_is_found_with_its_receipt_and_repeats(operator: Operator) -> None:
    project, client = operator.customer()
    batch = [event(project, event_id, "image") | {"source": source} for source, event_id in ODD_NAMES]
    assert client.post("/v1/events", content=json.dumps([*batch, batch[0]]), headers=BATCH).status_code == 202
    for source, event_id in ODD_NAMES:
        found = until_seen(client, source, event_id)
        assert (found["state"], found["receipt"]["outcome"]) == ("decided", "charged"), found
        assert found["receipt"]["inputs"]["source"] == source
        assert found["receipt"]["id"] == found["decisions"][0]["id"]
        assert found["summary"] in report_text(found)
    assert eventually(lambda: report(client, *ODD_NAMES[0])["repeats"] == 1)
    # A source with its slashes as they are is read up to the last one.
    assert client.get("/v1/events//tests/plain").json()["state"] == "decided"
    assert report(operator.http, *ODD_NAMES[0], project=project)["state"] == "decided"
    _, stranger = operator.customer()
    assert report(stranger, *ODD_NAMES[1])["state"] == "not_seen"


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (f"/v1/events/%2Ftests/{'x' * 257}", "id"),
        (f"/v1/events/{'x' * 257}/a", "source"),
        ("/v1/events//a", "source"),
        ("/v1/events/%FF/a", "source"),
    ],
)
def test_what_names_no_event_is_refused(operator: Operator, path: str, field: str) -> None:
    response = operator.http.get(path)
    assert (response.status_code, response.json()["field"]) == (422, field), response.text


def test_why_an_event_was_refused_or_is_among_the_dead_letters(operator: Operator, stack: Stack) -> None:
    project, client = operator.customer()
    _, stranger = operator.customer()
    texts = [
        json.dumps(event(project, "lost", "hologram") | {"source": "/reports"}),
        '{"id": "broken-report", "source": "/reports", oops',
    ]

    async def send() -> None:
        async with KafkaProducer(stack.settings) as producer:
            for text in texts:
                await producer.send(text.encode())
                await producer.flush()

    asyncio.run(send())
    found = until_seen(client, "/reports", "lost")
    assert (found["state"], found["receipt"]) == ("dead_lettered", None)
    assert found["dead_letters"][0]["code"] == "unknown_operation"
    assert "unknown_operation" in found["summary"] and found["at"] == found["dead_letters"][0]["received_at"]
    assert found["dead_letters"][0]["event"] is None, "anyone may send what names a project"
    assert '"hologram"' in until_seen(operator.http, "/reports", "lost")["dead_letters"][0]["event"]
    assert until_seen(operator.http, "/reports", "broken-report")["dead_letters"][0]["code"] == "malformed_json"
    for asking, event_id in ((stranger, "lost"), (client, "broken-report")):
        assert report(asking, "/reports", event_id)["state"] == "not_seen"
    job = {"operation": "video", "id": "too-much", "source": "/reports", "quantity": 1_000}
    assert client.post("/v1/admissions", json=job).status_code == 402
    refused = until_seen(client, "/reports", "too-much")
    assert (refused["state"], refused["receipt"]["outcome"]) == ("refused", "refused")
    assert refused["receipt"]["refusal"]["status"] == 402


def test_what_came_before_as_of_is_there(operator: Operator) -> None:
    """An event that is not seen had not come by `as_of`: asked again and again while events go through all stages."""
    project, client = operator.customer()
    sent_at: dict[str, float] = {}
    asked = 0
    for number in range(6):
        name = f"soon-{number}"
        one = event(project, name, "image") | {"source": "/soon"}
        assert client.post("/v1/events", content=json.dumps([one]), headers=BATCH).status_code == 202
        sent_at[name] = time.time()
        while (found := report(client, "/soon", name))["state"] == "not_seen":
            asked += 1
            assert datetime.fromisoformat(found["as_of"]).timestamp() < sent_at[name]
    assert asked
    first = eventually(
        lambda: (
            datetime.fromisoformat((found := report(client, "/soon", "never"))["as_of"]).timestamp() > sent_at["soon-0"]
            and found
        )
    )
    assert first["state"] == "not_seen"
