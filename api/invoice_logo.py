"""The logo of invoices: a file that a setting names, put into their page whole."""

from __future__ import annotations

import base64

from api.pictures import read_picture
from streams.settings import Settings


def logo_url(settings: Settings) -> str:
    """The logo that the settings name, as a data: URL, or "". Raises OperatorError where it can't be on an invoice."""
    if settings.invoice_logo is None:
        return ""
    media_type, content = read_picture(settings.invoice_logo, "METERLINE_INVOICE_LOGO")
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
