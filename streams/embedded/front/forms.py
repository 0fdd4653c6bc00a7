"""Multipart forms, in which drivers send a query with long parameters: fields `query` and `param_…`, as ClickHouse's
HTTP interface takes them. Files, which would be external tables, are not taken."""

from __future__ import annotations

import io

from multipart import MultipartError, MultipartParser, parse_options_header

from streams.core.foreign import UnreadableError, read

FIELDS_MAX = 100


class BadForm(ValueError):
    """A body is no multipart form of a query and its parameters; the message says why."""


def is_form(content_type: str) -> bool:
    """Whether a body of this content type is a multipart form."""
    return content_type.strip().lower().startswith("multipart/")


def fields_of(body: bytes, content_type: str) -> dict[str, str]:
    """The fields of a form by name. Raises BadForm. The body's length is the caller's to bound."""
    kind, options = parse_options_header(content_type)
    boundary = options.get("boundary", "")
    if kind.lower() != "multipart/form-data" or not boundary:
        raise BadForm("A form is multipart/form-data with a boundary")
    # All is in memory already: nothing of it goes to disk.
    bounds = {"part_limit": FIELDS_MAX, "memory_limit": len(body) + 1, "spool_limit": len(body) + 1}
    found: dict[str, str] = {}
    try:
        for part in MultipartParser(io.BytesIO(body), boundary, strict=True, **bounds):
            if part.filename is not None:
                raise BadForm("External tables are not taken: a form has fields only")
            if part.name != "query" and not part.name.startswith("param_"):
                raise BadForm(f"A form has `query` and `param_…`, and no field {part.name[:64]!r}")
            if part.name in found:
                raise BadForm(f"The form has {part.name[:64]!r} twice")
            found[part.name] = read(bytes.decode, part.file.getvalue())
    except (MultipartError, UnreadableError) as error:
        raise BadForm(f"The form can't be read: {error}") from None
    return found
