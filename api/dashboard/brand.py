"""The brand that the pages bear: a name and a logo by setting, or Meterline's own."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from api.dashboard.static_files import static_path
from api.pictures import read_picture
from streams.settings import Settings

LOGO_PATH = "/dashboard/brand"


@dataclass(frozen=True, slots=True)
class Brand:
    """A brand: its name, the address of its mark, and the logo's media type and content, empty where the mark is
    ours."""

    name: str
    mark: str
    media_type: str = ""
    logo: bytes = b""

    @classmethod
    def of(cls, settings: Settings) -> Brand:
        """The brand that the settings name. Raises OperatorError where the logo can't be shown."""
        if settings.brand_logo is None:
            return cls(settings.brand_name, static_path("mark.svg"))
        media_type, logo = read_picture(settings.brand_logo, "METERLINE_BRAND_LOGO")
        return cls(settings.brand_name, f"{LOGO_PATH}/{sha256(logo).hexdigest()[:12]}", media_type, logo)
