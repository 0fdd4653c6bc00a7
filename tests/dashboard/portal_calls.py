"""Helpers for the tests of portals: browsers without scripts, links of any age, and a second API."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from api.callers.links import PortalLink, PortalLinks
from api.stack import Stack
from streams.embedded import lifeline
from streams.kafka.clock import now_ms
from streams.settings import Settings
from tests.calls import Operator, eventually

PORTAL = "/dashboard/portal"


def browser(url: str) -> httpx.Client:
    """A browser without scripts: it keeps cookies, and says of each form that it came from a page of this origin."""
    return httpx.Client(base_url=url, headers={"origin": url}, timeout=30.0)


def link_url(client: httpx.Client, **asked: Any) -> str:
    """The URL of a new link of a project's key."""
    answer = client.post("/v1/portal-links", json=asked)
    assert answer.status_code == 201, answer.text
    url: str = answer.json()["url"]
    return url


def token_of(url: str) -> str:
    (token,) = parse_qs(urlsplit(url).query)["token"]
    return token


def remade(stack: Stack, url: str, **changes: Any) -> str:
    """The token of a link like this one, with other content, signed by the real signer under another id."""
    links = PortalLinks.of(stack.settings)
    link: PortalLink = replace(links.link(token_of(url)), id=f"plk_{secrets.token_hex(12)}", **changes)
    return links.token(link)


def press(reader: httpx.Client, token: str, **headers: str) -> httpx.Response:
    """Press the button of a link's page."""
    return reader.post(PORTAL, data={"token": token, "zone": "Europe/Berlin"}, headers=headers)


def opened(url: str, token: str) -> httpx.Client:
    """A browser that has opened a link."""
    reader = browser(url)
    answer = press(reader, token)
    assert (answer.status_code, answer.headers.get("location")) == (303, "/dashboard"), answer.text
    return reader


def refused(answer: httpx.Response, status: int, title: str) -> str:
    """The page, which tells a problem of this title and begins no session."""
    assert answer.status_code == status and title in answer.text, (answer.status_code, answer.text)
    assert "set-cookie" not in answer.headers
    return answer.text


def use(client: httpx.Client, customer: str, operation: str = "image") -> str:
    """Have a customer use something; gives its entry's id."""
    metadata = {"customer_id": customer, "of": f"of-{customer}"}
    body = {"operation": operation, "id": secrets.token_hex(4), "source": "/t", "metadata": metadata}
    answer = client.post("/v1/admissions", json=body)
    assert answer.status_code == 200, answer.text
    entry: str = answer.json()["entry_id"]
    return entry


def two_customers(operator: Operator) -> tuple[str, httpx.Client, str, str]:
    """A project, its key's client, and two of its customers, whose use is in the history."""
    project, client = operator.customer("build")
    mine, other = f"mine-{secrets.token_hex(4)}", f"other-{secrets.token_hex(4)}"
    use(client, mine)
    last = use(client, other, "website")
    eventually(lambda: last in client.get("/v1/ledger").text)
    return project, client, mine, other


def elsewhere(stack: Stack, directory: Path, **changes: Any) -> Settings:
    """The settings of another API beside a stack's own."""
    own = {"data_dir": directory, "clickhouse_url": stack.clickhouse_url}
    own |= {"api_port": lifeline.free_port(), "metrics_port": lifeline.free_port()}
    return stack.settings.model_copy(update=own | changes)


@contextmanager
def another_api(settings: Settings) -> Iterator[str]:
    """The URL of another API, which runs while the block does."""
    log_path = settings.data_dir / "api-2.log"
    argv = [sys.executable, "-m", "api.cli", "api"]
    child = lifeline.start("api-2", argv, log_path=log_path, env=settings.as_environment())
    url = f"http://127.0.0.1:{settings.api_port}"

    def is_ready() -> bool:
        assert child.process.poll() is None, log_path.read_text()
        try:
            return httpx.get(f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(is_ready)
        yield url
    finally:
        child.process.terminate()
        child.stop()


def csrf_of(page: str) -> str:
    """The form token in a page."""
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None, page
    return found[1]


def minutes_ago(minutes: float) -> int:
    """A Unix second."""
    return round(now_ms() / 1000 - 60 * minutes)
