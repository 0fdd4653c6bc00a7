"""Groups of usage as one parameter names them: with commas between, and in double quotes where a name has one."""

from __future__ import annotations

import re
from collections.abc import Iterable

# A quote inside quotes comes twice, as in CSV.
_GROUP = re.compile(r'(?:\A|,)(?:"((?:[^"]|"")+)"(?=,|\Z)|([^,]*))')


def groups_in(text: str) -> list[str]:
    """The groups that a text names, in order; nothing between two commas is no group."""
    found = (quoted.replace('""', '"') or plain for quoted, plain in _GROUP.findall(text))
    return [group for group in found if group]


def groups_text(groups: Iterable[str]) -> str:
    """The text that names these groups."""
    return ",".join(map(_quoted, groups))


def _quoted(group: str) -> str:
    if "," not in group and not group.startswith('"'):
        return group
    return '"' + group.replace('"', '""') + '"'
