"""Sessions of the dashboard: a signed cookie that says who signed in, and holds no key.

The caller behind a session is looked up at each request, so a key that is revoked ends its sessions at once
(docs/decisions/0066).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from heapq import heappop, heappush
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from itsdangerous import BadSignature, Signer, URLSafeSerializer
from starlette.requests import cookie_parser

from api.callers.keys import Caller, admin_with_id, key_with_id
from api.callers.links import PortalLink
from api.callers.portals import caller_of_portal
from api.dependencies import account_for
from api.services import Services
from schemas.problems import Rejection
from streams.kafka.clock import now_ms

SESSION_SECONDS_MAX = 12 * 3600
# So many sessions that were signed out are known here: some 3 MB of ids.
SIGNED_OUT_MAX = 20_000
# With this prefix a browser takes a cookie only from this very host, over TLS.
COOKIE, SECURE_COOKIE = "meterline_session", "__Host-meterline_session"
_COOKIE_CHARS_MAX = 2048
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
_SCOPE_KEY = "meterline.session"


@dataclass(frozen=True, slots=True)
class Session:
    """A session of somebody who signed in: with a project's key, or, with `project` None, as an admin; or who opened a
    portal link (`portal`). `key_id` is the key's id, or the admin's, and of a portal that of whoever made the link;
    `expires_at` a Unix second; `zone` the reader's time zone; `mark` the mark of an admin's key, since an admin who has
    another key is called the same."""

    id: str
    project: str | None
    key_id: str
    environment: str
    expires_at: int
    zone: str = "UTC"
    portal: PortalLink | None = None
    mark: str = ""

    @property
    def tz(self) -> ZoneInfo:
        """The reader's time zone."""
        return ZoneInfo(self.zone)


class Sessions:
    """Sessions are sealed into cookies, opened again, and given tokens against forged requests, all with one key. With
    none, each process makes one of its own, and a restart ends all sessions.

    What was signed out is no session any more in this process, as long as it would have been one; of more than
    `signed_out_max`, those that end first are forgotten."""

    def __init__(self, key: str | None, signed_out_max: int = SIGNED_OUT_MAX) -> None:
        self._signed_out = set[str]()
        self._by_end: list[tuple[int, str]] = []
        self._signed_out_max = signed_out_max
        secret = key or secrets.token_urlsafe(48)
        signing = {"digest_method": sha256, "key_derivation": "hmac"}
        self._seal = URLSafeSerializer(secret, salt="meterline session", signer_kwargs=signing)
        self._csrf = Signer(secret, salt="meterline form", **signing)  # type: ignore[arg-type]
        self._shown = Signer(secret, salt="meterline shown", **signing)  # type: ignore[arg-type]

    def begin(self, caller: Caller, zone: str) -> Session:
        """A new session for a caller who has just shown a key; its id was never used before."""
        return replace(self._begun(caller.project, caller.key_id, caller.environment, zone), mark=caller.mark)

    def begin_portal(self, link: PortalLink, zone: str) -> Session:
        """A new session for whoever opens a portal link; its id was never used before."""
        return replace(self._begun(link.project, link.maker, link.environment, zone), portal=link)

    def _begun(self, project: str | None, key_id: str, environment: str, zone: str) -> Session:
        known = zone if zone in available_timezones() else "UTC"
        ends = int(time.time()) + SESSION_SECONDS_MAX
        return Session(secrets.token_urlsafe(16), project, key_id, environment, ends, known)

    def sealed(self, session: Session) -> str:
        """The session as the value of a cookie."""
        value = self._seal.dumps(asdict(session))
        return value if isinstance(value, str) else value.decode()

    def opened(self, value: str) -> Session | None:
        """The session of a cookie's value; None where we did not seal it, or it has expired or was signed out."""
        if not value or len(value) > _COOKIE_CHARS_MAX:
            return None
        try:
            said = self._seal.loads(value)
            portal = said.pop("portal", None)
            session = Session(**said, portal=PortalLink(**portal) if portal is not None else None)
        except (BadSignature, TypeError):
            return None
        return session if session.expires_at > time.time() and not self.is_signed_out(session) else None

    def sign_out(self, session: Session) -> None:
        """End a session before its time, also for whoever has a copy of its cookie."""
        if session.id not in self._signed_out:
            self._signed_out.add(session.id)
            heappush(self._by_end, (session.expires_at, session.id))
        now = time.time()
        while self._by_end and (self._by_end[0][0] <= now or len(self._by_end) > self._signed_out_max):
            self._signed_out.discard(heappop(self._by_end)[1])

    def is_signed_out(self, session: Session) -> bool:
        """Whether a session was signed out in this process."""
        return session.id in self._signed_out

    def form_token(self, session: Session) -> str:
        """A token for the forms of a session's pages: new each time, so that compression tells nothing of it."""
        nonce = secrets.token_urlsafe(8)
        return f"{nonce}.{self._signature(session, nonce)}"

    def is_form_token(self, session: Session, token: str) -> bool:
        """Whether a token is one of this session's."""
        nonce, dot, signature = token[:200].partition(".")
        return bool(dot) and secrets.compare_digest(signature.encode(), self._signature(session, nonce).encode())

    def proof(self, session: Session, shown: bytes) -> str:
        """The proof that a session was shown something, for the form of what may be done then."""
        return self._shown.get_signature(f"{session.id}.{sha256(shown).hexdigest()}").decode()

    def is_proof(self, session: Session, shown: bytes, proof: str) -> bool:
        """Whether this session was shown this."""
        return secrets.compare_digest(proof.encode(), self.proof(session, shown).encode())

    def _signature(self, session: Session, nonce: str) -> str:
        return self._csrf.get_signature(f"{session.id}.{nonce}").decode()


def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine itself, to which a browser may speak without TLS."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name in _LOOPBACK


def find_session(scope: MutableMapping[str, Any], sessions: Sessions, headers: dict[bytes, bytes]) -> Session | None:
    """Find the session of a request by its cookie, and put it into the request's scope."""
    name = COOKIE if is_loopback(headers.get(b"host", b"").decode("latin-1")) else SECURE_COOKIE
    # Others set cookies of this host too, as they like: one that breaks the rules hides none of those after it.
    cookies = cookie_parser(headers.get(b"cookie", b"").decode("latin-1"))
    session = sessions.opened(cookies.get(name, ""))
    scope[_SCOPE_KEY] = session
    return session


def session_of(scope: MutableMapping[str, Any]) -> Session | None:
    """The session of a request, from its scope."""
    session: Session | None = scope.get(_SCOPE_KEY)
    return session


def share_session(outer: MutableMapping[str, Any], scope: MutableMapping[str, Any]) -> None:
    """Put the session of a request into the scope of one that it makes to this process itself."""
    scope[_SCOPE_KEY] = outer.get(_SCOPE_KEY)


def caller_of_session(services: Services, session: Session) -> Caller:
    """The caller behind a session, as the key, the admin or the portal is now. Raises Rejection, `key_revoked` and
    `not_ready` among others."""
    if session.portal is not None:
        account = account_for(services, session.portal.project)
        return caller_of_portal(services.settings, account, session.portal, now_ms())
    if session.project is None:
        settings = services.settings
        admin = admin_with_id(session.key_id, settings.admins, settings.admin_key_hashes, session.mark)
        if admin is None:
            raise Rejection("unauthenticated", "This admin's key is not known any more")
        return admin
    return key_with_id(account_for(services, session.project), session.key_id, now_ms())
