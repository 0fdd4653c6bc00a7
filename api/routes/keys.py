"""API keys of a project: making, listing, rotating and revoking them. A new key is shown once; only its hash is
kept."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from api.callers.keys import DEFAULT_SCOPES, new_project_key
from api.dependencies import AdminDep, IdempotencyKey, ProjectPath, ServicesDep, account_for, decided, problems
from api.services import Services
from api.views.accounts import key_info
from api.views.dry_runs import DRY_RUN_RESPONSE, DryRunQuery, dry_run_answer
from schemas.commands import CreateKey, RevokeKey, RotateKey
from schemas.http.common import KEYS_MAX, EnvironmentName
from schemas.http.projects import CreatedKey, KeyList, KeyRotation, ListedKey, NewKey
from schemas.problems import Rejection
from streams.core.acceptance import dedup_hash
from streams.history.key_uses import last_uses

router = APIRouter(prefix="/v1/admin", tags=["administration"], responses=problems(401, 403, 404, 409, 422, 503))


KeyPath = Annotated[str, Path(max_length=64)]


@router.post("/projects/{project}/keys", status_code=201, response_model=CreatedKey)
async def create_key(
    services: ServicesDep, caller: AdminDep, project: ProjectPath, asked: NewKey, idempotency_key: IdempotencyKey = ""
) -> CreatedKey:
    """Make a key, which is shown in this answer alone. Under an Idempotency-Key it is made once; a repeat is a 409
    `key_shown_before` that names the key's id."""
    scopes = asked.scopes or DEFAULT_SCOPES[asked.environment]
    key, key_hash = new_project_key(project, asked.environment)
    key_id = _key_id(project, idempotency_key)
    command = CreateKey(
        project=project,
        key_id=key_id,
        key_hash=key_hash,
        environment=asked.environment,
        scopes=scopes,
        name=asked.name,
        **services.commands.addressing(actor=caller.key_id),
    )
    await _made(services, command, key_id)
    return CreatedKey(key_id=key_id, key=key, name=asked.name, environment=asked.environment, scopes=scopes)


@router.get("/projects/{project}/keys", response_model=KeyList)
async def list_keys(services: ServicesDep, caller: AdminDep, project: ProjectPath) -> KeyList:
    """List a project's keys, the oldest first, each with its last use."""
    account = account_for(services, project)
    used = await services.reads.ask(caller.name, lambda history: last_uses(history, project))
    return KeyList(
        project=project,
        keys=[
            ListedKey(**key_info(key).model_dump(), last_used_at=used.get(key.id)) for key in account.keys[:KEYS_MAX]
        ],
    )


@router.post(
    "/projects/{project}/keys/{key_id}/rotation", status_code=201, response_model=CreatedKey, responses=DRY_RUN_RESPONSE
)
async def rotate_key(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    key_id: KeyPath,
    asked: KeyRotation,
    dry_run: DryRunQuery = False,
    idempotency_key: IdempotencyKey = "",
) -> CreatedKey | Response:
    """Rotate a key: make one of the same name, environment and scopes, which is shown in this answer alone. The old one
    works for `grace_seconds` more. Under an Idempotency-Key a repeat is a 409, as for a new key."""
    account = account_for(services, project)
    old = next((each for each in account.keys if each.id == key_id), None)
    if old is None:
        raise Rejection("unknown_key", f"Project {project!r} has no key {key_id!r}", "key_id")
    environment: EnvironmentName = "preview" if old.environment == "preview" else "production"
    key, key_hash = new_project_key(project, environment)
    new_key_id = _key_id(project, idempotency_key)
    command = RotateKey(
        project=project,
        key_id=key_id,
        new_key_id=new_key_id,
        key_hash=key_hash,
        grace_ms=asked.grace_seconds * 1000,
        **services.commands.addressing(actor=caller.key_id),
    )
    if dry_run:
        return dry_run_answer(services, command)
    await _made(services, command, new_key_id)
    return CreatedKey(key_id=new_key_id, key=key, name=old.name, environment=environment, scopes=old.scopes)


def _key_id(project: str, idempotency_key: str) -> str:
    if not idempotency_key:
        return f"key_{secrets.token_hex(6)}"
    # A repeat asks for the same key id, of which the owner makes only one; the secret can't be made again.
    return f"key_{dedup_hash(project, 'meterline:key', idempotency_key).hex()[:12]}"


async def _made(services: Services, command: CreateKey | RotateKey, key_id: str) -> None:
    try:
        await decided(services, command)
    except Rejection as rejection:
        if rejection.code == "key_exists":
            raise Rejection("key_shown_before", f"Key {key_id} was made under this Idempotency-Key") from None
        raise


@router.delete("/projects/{project}/keys/{key_id}", status_code=204, responses=DRY_RUN_RESPONSE)
async def revoke_key(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    key_id: KeyPath,
    dry_run: DryRunQuery = False,
    idempotency_key: IdempotencyKey = "",
) -> Response:
    """Revoke a key: it ends at once."""
    addressing = services.commands.addressing(idempotency_key, caller.key_id)
    command = RevokeKey(project=project, key_id=key_id, **addressing)
    if dry_run:
        return dry_run_answer(services, command)
    await decided(services, command)
    return Response(status_code=204)
