"""Webhooks that we sign, and what the npm library `standardwebhooks` says of them, recorded: Node and its packages are
not to be had wherever tests run. `uv run python -m tests.courier.npm_webhooks` records it anew, where they are.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from schemas.accounts import Endpoint
from schemas.notices import Notice
from schemas.times import DAY_MS
from streams.courier.outgoing import body_of
from streams.courier.signatures import headers_of, secret_of

VERSION = "1.1.1"
RECORD = Path(__file__).parents[1] / "golden" / f"standardwebhooks-npm-{VERSION}.json"
KEY = "a-key-of-tests-with-40-characters-in-all"
AT_MS = 1_790_000_000_123

# Reads webhooks, and prints what the library makes of each: what it tells, or its error.
_SCRIPT = """
const { Webhook } = require("standardwebhooks");
const asked = JSON.parse(require("fs").readFileSync(0, "utf8"));
const said = asked.map(({ at_ms, secret, body, headers }) => {
  Date.now = () => at_ms;
  try {
    return { told: new Webhook(secret).verify(body, headers) };
  } catch (error) {
    return { error: error.message };
  }
});
console.log(JSON.stringify(said));
"""


def endpoint(**changes: Any) -> Endpoint:
    """A webhook of a project."""
    given: dict[str, Any] = {
        "id": "whk-1",
        "kind": "webhook",
        "target": "https://hooks.example/in",
        "event_types": ["*"],
        "environments": [],
        "is_ordered": False,
        "created_at_ms": AT_MS,
    }
    return Endpoint(**given | changes)


def notice(type: Any = "project.credits_low", **data: Any) -> Notice:
    """A notice of a project."""
    return Notice("ntc-3-17-2", type, "acme", "production", AT_MS - 5000, json.dumps(data) if data else "")


def webhooks() -> list[dict[str, Any]]:
    """Webhooks as they are sent, each with the secret that a receiver has, and the time at which it looks."""
    made = []
    rotated = endpoint(secret_version=2, rotated_at_ms=AT_MS - DAY_MS + 1000)
    long_ago = endpoint(secret_version=3, rotated_at_ms=AT_MS - DAY_MS)
    cases = [
        (endpoint(), 1, AT_MS, ""),
        (rotated, 1, AT_MS, ""),
        (rotated, 2, AT_MS, ""),
        (long_ago, 3, AT_MS, ""),
        (long_ago, 2, AT_MS, ""),
        (endpoint(), 2, AT_MS, ""),
        (endpoint(id="whk-2"), 1, AT_MS + 299_000, ""),
        (endpoint(), 1, AT_MS + 302_000, ""),
        (endpoint(), 1, AT_MS - 302_000, ""),
        (endpoint(), 1, AT_MS, " "),
    ]
    for to, version, at_ms, added in cases:
        body = body_of(notice(available="1999.98", threshold="2000", customer="Zoë & <Søn>\u2028"))
        headers = headers_of(KEY, to, "ntc-3-17-2", AT_MS, body)
        secret = secret_of(KEY, to.id, version)
        made.append({"at_ms": at_ms, "secret": secret, "body": body.decode() + added, "headers": headers})
    return made


def asked_of_npm(directory: Path) -> list[dict[str, Any]]:
    """The library's word on each of these webhooks; it is installed into a directory."""
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", f"standardwebhooks@{VERSION}"]
    subprocess.run(install, cwd=directory, check=True, capture_output=True, timeout=120)
    done = subprocess.run(
        ["node", "-e", _SCRIPT],
        cwd=directory,
        input=json.dumps(webhooks()),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    said: list[dict[str, Any]] = json.loads(done.stdout)
    return said


def main() -> None:
    """Record what the library says."""
    with tempfile.TemporaryDirectory() as directory:
        said = asked_of_npm(Path(directory))
    asked = [{**each, "said": answer} for each, answer in zip(webhooks(), said, strict=True)]
    RECORD.write_text(json.dumps(asked, indent=1, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
