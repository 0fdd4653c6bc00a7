"""Content negotiation: which of the media types that a route offers a caller's Accept asks for (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import Depends, Header, Request

from schemas.problems import Rejection

_ELEMENT = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*")+')
_PART = re.compile(r'(?:[^;"]|"(?:\\.|[^"\\])*")+')
_RANGE = re.compile(r"\*/\*|[\w!#$&^.+-]+/(?:\*|[\w!#$&^.+-]+)", re.ASCII)
_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?", re.ASCII)


async def _accept(request: Request, _documented: Annotated[str, Header(alias="accept")] = "") -> str:
    """The Accept header; several lines of it are one list."""
    return ", ".join(request.headers.getlist("accept"))


AcceptHeader = Annotated[str, Depends(_accept)]


def preferred(accept: str, offered: Sequence[str]) -> str:
    """The media type that an Accept header prefers among those offered; the first one where it names no range that can
    be read. Raises Rejection `not_acceptable`.

    The most specific range that covers a type decides on it. Of types that are wanted alike, the one that is named goes
    before one that a wildcard covers, and then the one that is named first.
    """
    ranges = list(_ranges(accept))
    if not ranges:
        return offered[0]
    wanted = []
    for media_type in offered:
        specificity = {media_type: 2, f"{media_type.partition('/')[0]}/*": 1, "*/*": 0}
        covering = [(specificity[name], -place, q) for place, (name, q) in enumerate(ranges) if name in specificity]
        if covering:
            how_specific, place, quality = max(covering)
            wanted.append((quality, how_specific, place, media_type))
    # Of two types that one wildcard covers, the one that is offered first: max() takes the first of equals.
    best = max(wanted, key=lambda each: each[:3], default=(0.0,))
    if not best[0]:
        raise Rejection("not_acceptable", f"This is to be had as {', '.join(offered)}", "Accept")
    return str(best[-1])


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    """The (media range, quality) pairs of an Accept header. An element that can't be read is passed over."""
    for element in _ELEMENT.findall(accept.lower()):
        name, *parameters = [part.strip() for part in _PART.findall(element)] or [""]
        qualities = [each.partition("=")[2].strip() for each in parameters if each.partition("=")[0].strip() == "q"]
        if _RANGE.fullmatch(name) and all(map(_QUALITY.fullmatch, qualities[:1])):
            yield name, float(qualities[0]) if qualities else 1.0
