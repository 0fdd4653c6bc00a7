"""The logo of invoices: a file that a setting names, put into their page whole."""

from __future__ import annotations

import base64

from streams.errors import OperatorError
from streams.settings import Settings

LOGO_BYTES_MAX = 256 * 1024
_LOGO_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def logo_url(settings: Settings) -> str:
    """The logo that the settings name, as a data: URL, or "". Raises OperatorError where it can't be on an invoice."""
    path = settings.invoice_logo
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            content = file.read(LOGO_BYTES_MAX + 1)
    except OSError as error:
        raise OperatorError(f"METERLINE_INVOICE_LOGO is {path}: {error.strerror}. Name a PNG or JPEG file") from None
    if len(content) > LOGO_BYTES_MAX:
        raise OperatorError(f"METERLINE_INVOICE_LOGO is {path}, which is above 256 KB. Name a smaller PNG or JPEG file")
    for head, media_type in _LOGO_TYPES.items():
        if content.startswith(head):
            return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
    raise OperatorError(f"METERLINE_INVOICE_LOGO is {path}, which is neither PNG nor JPEG. Name a file of those")
