"""Portal links: signed texts that say what they show, who made them and until when they can be opened.

Nothing of a link is stored before it is opened (docs/decisions/0066).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Final

from itsdangerous import BadSignature, URLSafeSerializer

from schemas.problems import Rejection
from streams.settings import Settings

TOKEN_CHARS_MAX: Final = 2048


@dataclass(frozen=True, slots=True)
class PortalLink:
    """A link to a project's pages, or, with a `customer`, to those of one customer. `maker` is the id of the key or
    admin that made it, who knew the account as of the intake record at `known_offset`; `mark` is that of the admin's
    key, and "" in a link that was made before there were marks. `expires_at` is a Unix second."""

    id: str
    project: str
    environment: str
    customer: str
    maker: str
    known_offset: int
    expires_at: int
    mark: str = ""


class PortalLinks:
    """The signer of portal links, all APIs' with the same key."""

    def __init__(self, key: str) -> None:
        signing = {"digest_method": sha256, "key_derivation": "hmac"}
        self._seal = URLSafeSerializer(key, salt="meterline portal link", signer_kwargs=signing)

    @classmethod
    def of(cls, settings: Settings) -> PortalLinks:
        """The signer that the settings have the key of. Raises Rejection `portal_not_set_up` where they have none."""
        if settings.session_key is None:
            raise Rejection("portal_not_set_up", "Portal links need METERLINE_SESSION_KEY, the same at all APIs")
        return cls(settings.session_key.get_secret_value())

    def token(self, link: PortalLink) -> str:
        """The signed text of a link."""
        value = self._seal.dumps(list(asdict(link).values()))
        return value if isinstance(value, str) else value.decode()

    def link(self, token: str) -> PortalLink:
        """The link of a token that we have signed, whether it can still be opened or not. Raises Rejection
        `portal_link_invalid`."""
        try:
            if len(token) > TOKEN_CHARS_MAX:
                raise BadSignature("")
            return PortalLink(*self._seal.loads(token))
        except (BadSignature, TypeError):
            raise Rejection("portal_link_invalid", "This is no link of ours, or not all of it") from None
