"""API keys of a project: making and revoking them. A new key is shown once; only its hash is kept."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from api.callers.keys import DEFAULT_SCOPES, new_project_key
from api.dependencies import AdminDep, IdempotencyKey, ProjectPath, ServicesDep, decided, problems
from schemas.commands import CreateKey, RevokeKey
from schemas.http.projects import CreatedKey, NewKey
from schemas.problems import Rejection
from streams.core.acceptance import dedup_hash

router = APIRouter(prefix="/v1/admin", tags=["administration"], responses=problems(401, 403, 404, 409, 422, 503))


@router.post("/projects/{project}/keys", status_code=201, response_model=CreatedKey)
async def create_key(
    services: ServicesDep, caller: AdminDep, project: ProjectPath, asked: NewKey, idempotency_key: IdempotencyKey = ""
) -> CreatedKey:
    """Make a key, which is shown in this answer alone. Under an Idempotency-Key it is made once; a repeat is a 409
    `key_shown_before` that names the key's id."""
    scopes = asked.scopes or DEFAULT_SCOPES[asked.environment]
    key, key_hash = new_project_key(project, asked.environment)
    key_id = f"key_{secrets.token_hex(6)}"
    if idempotency_key:
        # A repeat asks for the same key id, of which the owner makes only one; the secret can't be made again.
        key_id = f"key_{dedup_hash(project, 'meterline:key', idempotency_key).hex()[:12]}"
    command = CreateKey(
        project=project,
        key_id=key_id,
        key_hash=key_hash,
        environment=asked.environment,
        scopes=scopes,
        **services.commands.addressing(actor=caller.key_id),
    )
    try:
        await decided(services, command)
    except Rejection as rejection:
        if rejection.code == "key_exists":
            raise Rejection("key_shown_before", f"Key {key_id} was made under this Idempotency-Key") from None
        raise
    return CreatedKey(key_id=key_id, key=key, environment=asked.environment, scopes=scopes)


@router.delete("/projects/{project}/keys/{key_id}", status_code=204)
async def revoke_key(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    key_id: Annotated[str, Path(max_length=64)],
    idempotency_key: IdempotencyKey = "",
) -> Response:
    """Revoke a key: it ends at once."""
    addressing = services.commands.addressing(idempotency_key, caller.key_id)
    await decided(services, RevokeKey(project=project, key_id=key_id, **addressing))
    return Response(status_code=204)
