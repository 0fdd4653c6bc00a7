"""Rows of the ledger as pages show them: what an entry was for, in the words of the glossary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, Final
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

import orjson

from api.dashboard import pages
from api.dashboard.figures import instant, shown_time
from api.entries import LiveEntry, entry_json
from streams.core.foreign import read

GRANTS: Final = {"allowance": "Allowance", "top_up": "Bundle", "promotional": "Promotional credits"}
_CHARGES: Final = {"captured": "job", "recurring": "a month"}
_CORRECTIONS: Final = {"given_back": "given back", "charged": "charged after"}
_RENDERERS_KEPT_MAX = 256


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A ledger entry as a row: what it was for, with a tag where that needs one, and where its receipt is. One that its
    customer looks at has no balance and no receipt, which are the project's."""

    id: str
    booked_at: datetime
    what: str
    tag: str
    quantity: int
    customer: str
    grant: str
    note: str
    amount: str
    balance: str
    href: str

    @property
    def is_income(self) -> bool:
        """Whether credits came by it."""
        return not self.amount.startswith("-") and self.amount != "0"


def row_of(entry: Mapping[str, Any], about: str = "") -> LedgerRow:
    """The row of an entry, as the API gives it; `about` is the query of a page about the same project."""
    what, tag = _what(entry)
    is_grant = entry["kind"] in ("grant", "expiry", "refund")
    reference = entry["metadata"].get("reference") or entry["metadata"].get("reason") or ""
    return LedgerRow(
        id=entry["entry_id"],
        booked_at=instant(entry["booked_at"]),
        what=what,
        tag=tag,
        quantity=entry["quantity"] if not is_grant else 1,
        customer=entry["customer_id"],
        grant="" if is_grant else GRANTS.get(grant_kind(entry["grant_id"]), ""),
        note=str(reference) if is_grant else "",
        amount=entry["amount"],
        balance=entry["balance"],
        href=f"/dashboard/receipts/{quote(entry['entry_id'])}{about and '?'}{about}" if entry["balance"] else "",
    )


def grant_kind(grant_id: str) -> str:
    """The kind of the grant of this id."""
    return grant_id.partition("-")[0]


@lru_cache(_RENDERERS_KEPT_MAX)
def row_renderer(zone: ZoneInfo, about: str) -> Callable[[LiveEntry], bytes]:
    """The function that makes a new row of an entry, for readers in a zone who look at such pages: the same for all of
    them, so that a row is made once."""

    def rendered(entry: LiveEntry) -> bytes:
        context = {
            "rows": [row_of(read(orjson.loads, entry_json(entry)), about)],
            "when": partial(_shown, zone),
            "is_new": True,
        }
        return pages.rendered("partials/ledger_rows.html", context).encode()

    return rendered


def about_of(project: str | None, environment: str | None) -> str:
    """The query of pages about a project and an environment that are not the reader's own."""
    named = {"project": project, "environment": environment}
    return urlencode({name: value for name, value in named.items() if value})


def _shown(zone: ZoneInfo, value: Any, how: str = "minute") -> str:
    return shown_time(value, zone, how)


def _what(entry: Mapping[str, Any]) -> tuple[str, str]:
    kind, reason = entry["kind"], entry["reason"]
    match kind:
        case "grant":
            return GRANTS.get(reason, reason or "Credits"), ""
        case "expiry":
            return GRANTS.get(reason, reason or "Credits"), "ended"
        case "refund":
            return GRANTS.get(reason, reason or "Credits"), "refunded"
        case "correction":
            return entry["operation"], _CORRECTIONS.get(reason, "corrected")
        case _:
            return entry["operation"], _CHARGES.get(reason, "")
