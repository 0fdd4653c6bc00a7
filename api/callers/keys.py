"""API keys: how they look, how they are made, and how they are checked. Only hashes are ever stored.

`mtl_live_<project>.<secret>` and `mtl_preview_<project>.<secret>` belong to a project, `mtl_admin_<secret>` to the
operator. The project in the key saves an index of all keys. It proves nothing; the secret does.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from api.callers.links import PortalLink
from schemas.accounts import Account, ApiKey
from schemas.problems import Rejection
from streams.core.projects import has_ended
from streams.settings import Admin, Role

PREFIXES = {"production": "mtl_live_", "preview": "mtl_preview_"}
ADMIN_PREFIX = "mtl_admin_"
DEFAULT_SCOPES = {"production": ["*"], "preview": ["content:*"]}


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller is an admin of the operator's, with a `role` (`project` is None), or a key of a project, or somebody who
    has opened a portal link, and sees one project, or one `customer` of it. `mark` is the mark of an admin's key, since
    an admin who has another key is called the same."""

    project: str | None
    key_id: str
    environment: str
    scopes: tuple[str, ...]
    role: Role | None = None
    portal: PortalLink | None = None
    mark: str = ""

    @property
    def is_portal(self) -> bool:
        """Whether the caller has opened a portal link, and may look at some things alone."""
        return self.portal is not None

    @property
    def customer(self) -> str | None:
        """The one customer whom the caller may look at; None is no such bound."""
        return self.portal.customer or None if self.portal is not None else None

    @property
    def name(self) -> str:
        """The caller whose keys share limits: a project, or an admin key. The portals of a project share theirs, apart
        from its keys'."""
        return f"portal:{self.project}" if self.is_portal else self.project or self.key_id

    def has(self, scope: str) -> bool:
        """Whether one of the caller's scopes covers this one."""
        area = scope.partition(":")[0]
        return bool({"*", f"{area}:*", scope} & set(self.scopes))

    def require(self, scope: str) -> None:
        """Require this scope of the caller. Raises Rejection `missing_scope` unless one of the caller's covers it."""
        if not self.has(scope):
            raise Rejection("missing_scope", f"This key has no scope {scope!r}")


def new_project_key(project: str, environment: str) -> tuple[str, bytes]:
    """A new key for a project, and the hash of it that is kept."""
    key = f"{PREFIXES[environment]}{project}.{secrets.token_urlsafe(32)}"
    return key, hash_key(key)


def new_admin_key() -> tuple[str, str]:
    """A new admin key, and its hash in hex, for METERLINE_ADMINS or METERLINE_ADMIN_KEY_HASHES."""
    key = ADMIN_PREFIX + secrets.token_urlsafe(32)
    return key, hash_key(key).hex()


def hash_key(key: str) -> bytes:
    """The SHA-256 of a key. A key has 256 random bits, so there is nothing for a slow hash to protect."""
    return sha256(key.encode()).digest()


def admin_key_id(key: str) -> str:
    """The name of an admin key without an admin's name, where facts say who did something."""
    return f"admin:{hash_key(key).hex()[:8]}"


def admin_of(key: str, admins: Iterable[Admin], owner_hashes: Iterable[str]) -> Caller | None:
    """The admin that a key belongs to: a named one, or, by its hash alone, an owner; None where it is nobody's. It is
    compared with every hash, each in constant time.

    Facts say `admin:` and the name, or the start of the hash, for who did something.
    """
    digest = hash_key(key).hex()
    found: Caller | None = None
    for known in owner_hashes:
        if hmac.compare_digest(digest, known):
            found = _admin(admin_key_id(key), "owner", known)
    for admin in admins:
        if hmac.compare_digest(digest, admin.key_hash):
            found = _admin(f"admin:{admin.name}", admin.role, admin.key_hash)
    return found


def admin_with_id(key_id: str, admins: Iterable[Admin], owner_hashes: Iterable[str], mark: str) -> Caller | None:
    """The admin of this id, as facts name it, whose key has this mark; None where there is none any more. No key has an
    empty mark."""
    for known in owner_hashes:
        if key_id == f"admin:{known[:8]}" and mark == _mark(known):
            return _admin(key_id, "owner", known)
    for admin in admins:
        if key_id == f"admin:{admin.name}" and mark == _mark(admin.key_hash):
            return _admin(key_id, admin.role, admin.key_hash)
    return None


def _admin(key_id: str, role: Role, key_hash: str) -> Caller:
    return Caller(None, key_id, "production", ("*",), role, mark=_mark(key_hash))


def _mark(key_hash: str) -> str:
    """The mark of an admin's key: enough of its hash to tell whether the admin still has this key."""
    return key_hash[:32]


def project_of_key(key: str) -> str | None:
    """The project that a key names, or None where it is not in the form of a project's key."""
    for prefix in PREFIXES.values():
        if key.startswith(prefix):
            project, dot, _ = key.removeprefix(prefix).rpartition(".")
            return project if dot else None
    return None


def caller_of(account: Account, key: str, now_ms: int) -> Caller:
    """The caller that a key of this project's account belongs to. Raises Rejection `unauthenticated` or
    `key_revoked`."""
    digest = hash_key(key)
    found: ApiKey | None = None
    for known in account.keys:
        if hmac.compare_digest(known.hash, digest):
            found = known
    return _caller(account, found, now_ms)


def key_with_id(account: Account, key_id: str, now_ms: int) -> Caller:
    """The caller that the key of this id of a project's account belongs to. Raises Rejection `unauthenticated` or
    `key_revoked`."""
    return _caller(account, next((key for key in account.keys if key.id == key_id), None), now_ms)


def _caller(account: Account, key: ApiKey | None, now_ms: int) -> Caller:
    if key is None:
        raise Rejection("unauthenticated", "The key is not known")
    if has_ended(key, now_ms):
        how = "was revoked" if key.revoked_at_ms else "ended, since another took its place"
        raise Rejection("key_revoked", f"Key {key.id} {how}")
    return Caller(account.project, key.id, key.environment, tuple(key.scopes))
