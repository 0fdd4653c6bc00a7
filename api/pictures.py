"""Pictures that settings name: a file each, checked when a process starts."""

from __future__ import annotations

from pathlib import Path

from streams.errors import OperatorError

PICTURE_BYTES_MAX = 256 * 1024
_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def read_picture(path: Path, setting: str) -> tuple[str, bytes]:
    """The media type and the content of the picture that a setting names. Raises OperatorError where it is no PNG or
    JPEG file of at most 256 KB."""
    try:
        with path.open("rb") as file:
            content = file.read(PICTURE_BYTES_MAX + 1)
    except OSError as error:
        raise OperatorError(f"{setting} is {path}: {error.strerror}. Name a PNG or JPEG file") from None
    if len(content) > PICTURE_BYTES_MAX:
        raise OperatorError(f"{setting} is {path}, which is above 256 KB. Name a smaller PNG or JPEG file")
    for head, media_type in _TYPES.items():
        if content.startswith(head):
            return media_type, content
    raise OperatorError(f"{setting} is {path}, which is neither PNG nor JPEG. Name a file of those")
