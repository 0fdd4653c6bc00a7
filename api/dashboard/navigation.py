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
    MenuPlace("/dashboard/limits", "Limits"),
)


def places_for(*, is_admin: bool, has_project: bool) -> list[tuple[str, list[MenuPlace]]]:
    """The groups of the menu with their places, in order, that there are for a reader."""
    groups: dict[str, list[MenuPlace]] = {}
    for place in PLACES:
        if has_project if place.of_project else is_admin:
            groups.setdefault(place.group, []).append(place)
    return list(groups.items())
