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


PLACES: Final = (
    MenuPlace("/dashboard", "Overview"),
    MenuPlace("/dashboard/usage", "Usage"),
    MenuPlace("/dashboard/ledger", "Ledger"),
    MenuPlace("/dashboard/limits", "Limits"),
    MenuPlace("/dashboard/holds", "Holds"),
    MenuPlace("/dashboard/invoices", "Invoices"),
    MenuPlace("/dashboard/alerts", "Alerts", "Tell me"),
    MenuPlace("/dashboard/webhooks", "Webhooks", "Tell me"),
    MenuPlace("/dashboard/prices", "Price list", "Prices"),
    MenuPlace("/dashboard/webhooks", "Platform's webhooks", "Operate", of_project=False),
)


def places_for(*, is_admin: bool, has_project: bool) -> list[tuple[str, list[MenuPlace]]]:
    """The groups of the menu with their places, in order, that there are for a reader."""
    groups: dict[str, list[MenuPlace]] = {}
    # The platform's own of what projects have too is found where no project is chosen.
    taken = {place.path for place in PLACES if place.of_project and has_project}
    for place in PLACES:
        if has_project if place.of_project else is_admin and place.path not in taken:
            groups.setdefault(place.group, []).append(place)
    return list(groups.items())
