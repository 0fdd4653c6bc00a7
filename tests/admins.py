"""The keys of the session's named admins: one of each role."""

from __future__ import annotations

from typing import get_args

from streams.settings import Role

ADMIN_KEYS: dict[Role, str] = {role: f"mtl_admin_{role}-in-tests" for role in get_args(Role)}
