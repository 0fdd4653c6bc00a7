"""Dependencies that routes share: the running services, the caller, the project that a call is about, its command's
reply."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.callers.calls import call_of, count, note_entry, operation_of
from api.callers.keys import ADMIN_PREFIX, Caller, admin_of, caller_of, project_of_key
from api.callers.portals import require_shown
from api.callers.roles import require_role
from api.services import Services
from schemas.accounts import Account
from schemas.commands import AnyCommand
from schemas.events import PROJECT_ID_PATTERN
from schemas.http.common import EnvironmentName
from schemas.http.problems import Problem
from schemas.problems import Rejection
from schemas.replies import Reply
from streams.core.acceptance import Origin
from streams.core.projects import BILLING_PREFIX
from streams.core.replies import KEY_CHARS_MAX
from streams.http_answers import check_headers
from streams.kafka.clock import now_ms


def problems(*statuses: int) -> dict[int | str, dict[str, object]]:
    """A router's `responses` for the OpenAPI document: its calls may answer these statuses with a problem."""
    return {status: {"model": Problem} for status in statuses}


_bearer = HTTPBearer(auto_error=False, description="An API key: mtl_live_…, mtl_preview_… or mtl_admin_…")


# All dependencies are coroutines, since FastAPI runs one that is a plain function in a thread.


async def services_of(request: Request) -> Services:
    """The running services of this process."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(services_of)]


def caller_with(services: Services, key: str) -> tuple[Caller, Account | None]:
    """The caller that a key belongs to, and this process's copy of its project's account, None for the operator. Raises
    Rejection `unauthenticated`, `key_revoked` or `not_ready`."""
    if key.startswith(ADMIN_PREFIX):
        admin = admin_of(key, services.settings.admins, services.settings.admin_key_hashes)
        if admin is None:
            raise Rejection("unauthenticated", "The key is not known")
        return admin, None
    project = project_of_key(key)
    account = known_account(services, project) if project else None
    if account is None:
        raise Rejection("unauthenticated", "The key is not known")
    return caller_of(account, key, now_ms()), account


async def authenticated(
    request: Request, _documented: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Caller:
    """The caller, whom api.middleware.Front has found by the key; an admin, where the admin's role may make this call.
    Raises Rejection `unauthenticated`, `key_revoked`, `missing_role`, `not_in_portal` or `not_ready`."""
    call = call_of(request.scope)
    if call.caller is None:
        raise call.refusal or Rejection("unauthenticated", "There is no bearer token")
    if call.caller.role is not None:
        require_role(call.caller.role, operation_of(request.scope))
    if call.caller.is_portal:
        require_shown(call.caller, operation_of(request.scope))
    check_parameters(request)
    return call.caller


# The name by which a route declares that any `metadata.<key>` is a parameter of it.
METADATA_FILTER = "metadata.<key>"


def check_parameters(request: Request) -> None:
    """Check that a request names only query parameters that its route has, each once, and that none of its headers is
    there twice of which only one makes sense. Raises Rejection `invalid_request`."""
    check_headers(request.scope)
    if not request.scope["query_string"]:
        return
    known = list(_query_parameters(request.scope["route"].dependant))
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known and not (name.startswith("metadata.") and METADATA_FILTER in known):
            there_are = f"there are {', '.join(known)}" if known else "there are none here"
            raise Rejection("invalid_request", f"No query parameter {name[:64]!r}; {there_are}", name[:64])
        if given.count(name) > 1:
            raise Rejection("invalid_request", f"`{name}` is there more than once", name)


def _query_parameters(dependant: Dependant) -> Iterator[str]:
    yield from (each.alias for each in dependant.query_params)
    for other in dependant.dependencies:
        yield from _query_parameters(other)


async def _checked(request: Request) -> None:
    check_parameters(request)


# For routes that are open to everyone; all others ask for a caller, and so are checked.
CHECKED = Depends(_checked)


# An admission counts in the project's window by its own command, so such a call must not be counted before it.
UncountedCallerDep = Annotated[Caller, Depends(authenticated)]


async def counted(request: Request, services: ServicesDep, caller: UncountedCallerDep) -> Caller:
    """The caller, once the call is counted in its project's window. Raises Rejection, `rate_limited` among others."""
    await count(services, call_of(request.scope), operation_of(request.scope))
    return caller


CallerDep = Annotated[Caller, Depends(counted)]


async def current(request: Request, services: ServicesDep, caller: CallerDep) -> Caller:
    """The caller, once this process's copy of the account that the call is about includes all that was decided before.

    The owner counts the call after all that, so the copy is awaited up to the count's offset. While the owner is away,
    the copy is read as it is. An admin key's calls are not counted: for these it includes what this process was asked
    to decide, and may be some milliseconds behind the rest.
    """
    if caller.project is not None:
        project, offset = caller.project, call_of(request.scope).offset
    else:
        project = request.path_params.get("project") or request.query_params.get("project") or ""
        offset = services.commands.decided_offset(project)
    if offset is not None:
        await services.accounts.wait_for(project, offset, services.settings.count_wait_seconds)
    return caller


CurrentCallerDep = Annotated[Caller, Depends(current)]


async def admin(caller: CurrentCallerDep) -> Caller:
    """The caller, who must be the operator. Raises Rejection `missing_scope` where it is not."""
    if caller.project is not None:
        raise Rejection("missing_scope", "This call is for admin keys")
    return caller


AdminDep = Annotated[Caller, Depends(admin)]

ProjectQuery = Annotated[
    str | None,
    Query(pattern=PROJECT_ID_PATTERN, description="The project; needed with an admin key, otherwise the key's own"),
]


def project_for(caller: Caller, named: str | None) -> str:
    """The project that a call is about. Raises Rejection where the caller has to name one, or may not name this one."""
    if caller.project is None:
        if named is None:
            raise Rejection("invalid_request", "An admin key needs `project`", "project")
        return named
    if named is not None and named != caller.project:
        raise Rejection("wrong_project", "This key belongs to another project", "project")
    return caller.project


def environment_for(caller: Caller, named: EnvironmentName | None) -> EnvironmentName | None:
    """The environment that a reading is about, None for all of the project's: a preview key, or a portal, sees its own
    alone. Raises Rejection `wrong_environment`."""
    if caller.environment != "preview" and not caller.is_portal:
        return named
    own: EnvironmentName = "preview" if caller.environment == "preview" else "production"
    if named not in (None, own):
        whose = "portal" if caller.is_portal else "key"
        raise Rejection("wrong_environment", f"This {whose} is for the {own} environment, not {named}", "environment")
    return own


def origin_of(caller: Caller) -> Origin:
    """The project, key and environment that an event sent by this caller is bound to. An admin key binds its events to
    no project and no environment."""
    if caller.project is None:
        return Origin(key_id=caller.key_id)
    return Origin(caller.project, caller.key_id, caller.environment)


def known_account(services: Services, project: str) -> Account | None:
    """The project's account, or None where there is no such project.

    Raises Rejection `not_ready` until the copy of the accounts has been brought up to date once since this process
    started: before that, an account that it lacks may exist, and a key that it holds may have been revoked.
    """
    if services.accounts.lag_ms(project) < 0:
        raise Rejection("not_ready", "This process is still reading the accounts")
    return services.accounts.get(project)


def account_for(services: Services, project: str) -> Account:
    """The project's account. Raises Rejection `unknown_project` or `not_ready`."""
    account = known_account(services, project)
    if account is None:
        raise Rejection("unknown_project", f"There is no project {project!r}", "project")
    return account


def billing_account_for(services: Services, name: str) -> Account:
    """The billing account of this name. Raises Rejection `unknown_billing_account` or `not_ready`."""
    account = known_account(services, BILLING_PREFIX + name)
    if account is None:
        raise Rejection("unknown_billing_account", f"There is no billing account {name[:64]!r}", "billing_account")
    return account


IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        max_length=KEY_CHARS_MAX,
        description="The same key with the same content gives the same answer, and has its effect once. Each repeat "
        "counts as a request",
    ),
]


async def decided(services: Services, command: AnyCommand) -> tuple[Reply, int]:
    """The reply to a command, and the command's offset, once this process can read its effect back. Raises Rejection
    where the command is refused."""
    reply, offset = await services.commands.decide(command)
    note_entry(reply.entry_id)
    if reply.code:
        raise Rejection(reply.code, reply.detail, reply.field or None)
    await services.accounts.wait_for(command.project, offset, services.settings.reply_timeout_seconds)
    return reply, offset


def instant(at: datetime, field: str) -> datetime:
    """The time that a caller gave in `field`. Raises Rejection where it has no zone, or where its year is outside 1971
    to 2199."""
    if at.tzinfo is None:
        raise Rejection("invalid_request", f"`{field}` has no zone; end it with Z", field)
    if not 1970 < at.year < 2200:
        raise Rejection("invalid_request", f"`{field}` is a year between 1970 and 2200", field)
    return at


ProjectPath = Annotated[str, Path(pattern=PROJECT_ID_PATTERN)]
