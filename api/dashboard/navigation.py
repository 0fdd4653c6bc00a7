"""The places that the menu of the dashboard names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from api.callers.keys import Caller


@dataclass(frozen=True, slots=True)
class MenuPlace:
    """A place of the menu. One `of_project` is about one project, whose id an admin's address names; others are for
    admins alone."""

    path: str
    label: str
    group: str = ""
    of_project: bool = True


_TELL, _OPERATE = "Tell me", "Operate"
PLACES: Final = (
    MenuPlace("/dashboard", "Overview"),
    MenuPlace("/dashboard/usage", "Usage"),
    MenuPlace("/dashboard/ledger", "Ledger"),
    MenuPlace("/dashboard/limits", "Limits"),
    MenuPlace("/dashboard/holds", "Holds"),
    MenuPlace("/dashboard/invoices", "Invoices"),
    MenuPlace("/dashboard/alerts", "Alerts", _TELL),
    MenuPlace("/dashboard/webhooks", "Webhooks", _TELL),
    MenuPlace("/dashboard/prices", "Price list", "Prices"),
    MenuPlace("/dashboard/projects", "Projects", _OPERATE, of_project=False),
    MenuPlace("/dashboard/price-books", "Price books", _OPERATE, of_project=False),
    MenuPlace("/dashboard/limit-rehearsal", "Limit rehearsal", _OPERATE, of_project=False),
    MenuPlace("/dashboard/events", "Events", _OPERATE, of_project=False),
    MenuPlace("/dashboard/dead-letters", "Dead letters", _OPERATE, of_project=False),
    MenuPlace("/dashboard/audit", "Audit", _OPERATE, of_project=False),
    MenuPlace("/dashboard/billing", "Billing accounts", _OPERATE, of_project=False),
    MenuPlace("/dashboard/webhooks", "Platform's webhooks", _OPERATE, of_project=False),
    MenuPlace("/dashboard/system", "System", _OPERATE, of_project=False),
)


# The pages that a portal shows, of one customer or of a project, with all that is below them but for the first one. A
# page that is not listed is refused, as is a call of the API (`api.callers.portals`).
_OVERVIEW, _SIGN_OUT = "/dashboard", "/dashboard/sign-out"
_OF_CUSTOMER: Final = frozenset({_OVERVIEW, "/dashboard/usage", "/dashboard/usage.csv", "/dashboard/ledger"})
# The overview's parts are below an address of their own.
_PARTS = "/dashboard/overview"
_OF_PROJECT: Final = _OF_CUSTOMER | {_PARTS, "/dashboard/prices", "/dashboard/receipts"}
_BILLED: Final = frozenset({"/dashboard/invoices"})


def pages_of_portal(caller: Caller) -> frozenset[str]:
    """The pages that a portal shows; invoices are of a project, and not of its preview."""
    if caller.customer is not None:
        return _OF_CUSTOMER
    return _OF_PROJECT | _BILLED if caller.has("billing:read") else _OF_PROJECT


def is_page_of_portal(caller: Caller, method: str, path: str) -> bool:
    """Whether a request is for a page that a portal shows: it looks, or signs out."""
    if path == _SIGN_OUT:
        return True
    if method not in ("GET", "HEAD"):
        return False
    shown = pages_of_portal(caller)
    return path in shown or any(path.startswith(f"{each}/") for each in shown - {_OVERVIEW})


def places_for(
    *, is_admin: bool, has_project: bool, shown: frozenset[str] | None = None
) -> list[tuple[str, list[MenuPlace]]]:
    """The groups of the menu with their places, in order, that there are for a reader; in a portal those that are
    `shown`."""
    groups: dict[str, list[MenuPlace]] = {}
    # The platform's own of what projects have too is found where no project is chosen.
    taken = {place.path for place in PLACES if place.of_project and has_project}
    for place in PLACES:
        is_there = has_project if place.of_project else is_admin and place.path not in taken
        if is_there and (shown is None or place.path in shown):
            groups.setdefault(place.group, []).append(place)
    return list(groups.items())
