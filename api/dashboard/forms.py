"""Acts of forms: a key under which a command acts once, and what is said when one was done."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

from starlette.responses import Response

from api.dashboard import pages
from api.dashboard.asking import ShownProblem
from api.dashboard.view import View

PAGE_ROWS = 50
# Digits in groups of three, by commas. Any other comma may be meant for a decimal point, and is for the API to refuse.
_GROUPED = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d*)?", re.ASCII)


class Fields(dict[str, str]):
    """The fields of a form; one that was not sent is empty."""

    def __missing__(self, name: str) -> str:
        return ""


def plain_number(text: str) -> str:
    """A number as it was typed, without what sets its digits apart: spaces, and commas between groups of three."""
    number = "".join(text.split())
    return number.replace(",", "") if _GROUPED.fullmatch(number) else number


def new_key() -> str:
    """A new idempotency key for a form: sent twice, the form acts once."""
    return f"dashboard-{secrets.token_hex(12)}"


def key_of(fields: Mapping[str, str]) -> str:
    """The idempotency key that a form came with; a new one where it has none that a page made."""
    given = fields.get("idempotency_key", "")
    return given if given.startswith("dashboard-") and len(given) <= 64 else new_key()


def next_key(key: str, problem: ShownProblem) -> str:
    """The key for a form that is shown again with a problem. A refusal is kept under its key, so what was mended goes
    under another; what was done before, or may be done yet, is asked for under the same, so that it is done once."""
    is_refused = problem.status < 500 and not problem.code.startswith("idempotency_")
    return new_key() if is_refused else key


def led_to(view: View, path: str, **changes: str) -> Response:
    """Lead to a page after an act was done (303), about the same project; `done` names what is said there."""
    return Response(None, 303, pages.HEADERS | {"location": view.url(path, **changes)})


def done_of(view: View, sentences: Mapping[str, str]) -> str:
    """The sentence for what the page's address says was done; "" where it says nothing known."""
    return sentences.get(view.query.get("done", ""), "")
