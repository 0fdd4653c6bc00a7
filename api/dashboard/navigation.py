"""The places that the menu of the dashboard names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class MenuPlace:
    """A place of the menu. One `of_project` is about one project, whose id an admin's address names; others are for
    admins alone."""

    path: str
    label: str
    group: str = ""
    of_project: bool = True


_OPERATE: Final = "Operate"
PLACES: Final = (
    MenuPlace("/dashboard", "Overview"),
    MenuPlace("/dashboard/projects", "Projects", _OPERATE, of_project=False),
    MenuPlace("/dashboard/price-books", "Price books", _OPERATE, of_project=False),
    MenuPlace("/dashboard/limit-rehearsal", "Limit rehearsal", _OPERATE, of_project=False),
    MenuPlace("/dashboard/events", "Events", _OPERATE, of_project=False),
    MenuPlace("/dashboard/dead-letters", "Dead letters", _OPERATE, of_project=False),
    MenuPlace("/dashboard/audit", "Audit", _OPERATE, of_project=False),
    MenuPlace("/dashboard/billing", "Billing accounts", _OPERATE, of_project=False),
    MenuPlace("/dashboard/system", "System", _OPERATE, of_project=False),
)


def places_for(*, is_admin: bool, has_project: bool) -> list[tuple[str, list[MenuPlace]]]:
    """The groups of the menu with their places, in order, that there are for a reader."""
    groups: dict[str, list[MenuPlace]] = {}
    for place in PLACES:
        if has_project if place.of_project else is_admin:
            groups.setdefault(place.group, []).append(place)
    return list(groups.items())
