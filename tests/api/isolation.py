"""The table of the isolation tests: how every operation of the API is called, and who may call it.

Texts in braces are filled in with what belongs to somebody: `{project}` is their project, `{hold}` their open hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OPEN, ADMIN = "", "admin"
READ, WRITE, BILLING, AUDIT = "content:read", "content:write", "billing:read", "audit:read"
HOOKS_READ, HOOKS_WRITE, PORTAL = "webhooks:read", "webhooks:write", "portal:write"
SCOPES = (READ, WRITE, BILLING, AUDIT, HOOKS_READ, HOOKS_WRITE, PORTAL, "other:read")

_USE = {"operation": "chat.message", "id": "{event}", "source": "{source}", "job_id": "{job}"}
_EVENT = {
    "specversion": "1.0",
    "id": "{event}",
    "source": "{source}",
    "type": "usage",
    "subject": "{project}",
    "data": {"operation": "chat.message", "job_id": "{job}"},
}
_BOOK = {"version": "stolen", "effective_at": "2190-01-01T00:00:00Z"}
_TERMS = {"name": "Mallory", "email": "mallory@example.com"}


@dataclass(frozen=True)
class Call:
    """A well-formed call of an operation. `scope` is what its caller needs. `named` has the parts that name a project
    outright, so that a key of another project is refused; `query` and `body` are the rest of it."""

    scope: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    named: Mapping[str, Any] = field(default_factory=dict)
    media_type: str = "application/json"


_PROJECT = {"query": {"project": "{project}"}}

_ENDPOINT = {"kind": "slack", "target": "https://{secret}.example/hook"}
_ENDPOINTS, _PLATFORMS = "/v1/webhook-endpoints", "/v1/admin/webhook-endpoints"


def _of_endpoints(prefix: str, read: str, write: str, named: Mapping[str, Any]) -> dict[str, Call]:
    """The calls about endpoints: those of projects, or the platform's."""
    one = f"{prefix}/{{endpoint_id}}"
    return {
        f"POST {prefix}": Call(write, body=_ENDPOINT, named=named),
        f"GET {prefix}": Call(read, named=named),
        f"GET {one}": Call(read, named=named),
        f"PATCH {one}": Call(write, body={"state": "paused"}, named=named),
        f"DELETE {one}": Call(write, named=named),
        f"POST {one}/rotate": Call(write, named=named),
        f"POST {one}/test": Call(write, named=named),
        f"POST {one}/replay": Call(write, body={"notice_id": "ntc-0-1-0"}, named=named),
        f"GET {one}/health": Call(read, named=named),
        f"GET {one}/deliveries": Call(read, named=named),
    }


CALLS: dict[str, Call] = {
    "POST /v1/admissions": Call(WRITE, body=_USE, named={"body": {**_USE, "project": "{project}"}}),
    "POST /v1/admissions/batch": Call(
        WRITE, body={"requests": [_USE]}, named={"body": {"requests": [{**_USE, "project": "{project}"}]}}
    ),
    "GET /v1/holds": Call(READ, named=_PROJECT),
    "GET /v1/holds/settled": Call(READ, {"limit": "1000"}, named=_PROJECT),
    "GET /v1/holds/{hold_id}": Call(READ, named=_PROJECT),
    "POST /v1/holds/{hold_id}/capture": Call(WRITE, body={"credits": "1"}, named=_PROJECT),
    "POST /v1/holds/{hold_id}/release": Call(WRITE, body={"reason": "mine"}, named=_PROJECT),
    "POST /v1/holds/{hold_id}/extend": Call(WRITE, body={"seconds": 60}, named=_PROJECT),
    "POST /v1/events": Call(
        WRITE,
        body=[],
        named={"body": [_EVENT]},
        media_type="application/cloudevents-batch+json",
    ),
    "GET /v1/balance": Call(READ, named=_PROJECT),
    "GET /v1/ledger": Call(READ, {"limit": "1000"}, named=_PROJECT),
    "GET /v1/ledger/stream": Call(READ, {"seconds": "1"}, named=_PROJECT),
    "GET /v1/usage": Call(READ, {"group_by": "customer_id,environment,metadata.secret"}, named=_PROJECT),
    "GET /v1/projects/me": Call(READ, named=_PROJECT),
    "GET /v1/limits": Call(READ, named=_PROJECT),
    "GET /v1/items": Call(READ, named=_PROJECT),
    "GET /v1/receipts/{id}": Call(READ, named=_PROJECT),
    "GET /v1/events/{source}/{id}": Call(READ, named=_PROJECT),
    "GET /v1/receipts": Call(READ, {"event_id": "{event}"}, named=_PROJECT),
    "POST /v1/admin/rehearsals": Call(ADMIN, body={"days": 1, "book": _BOOK}),
    "POST /v1/admin/rehearsals/limits": Call(ADMIN, body={"project": "{project}", "burst": 1}),
    "GET /v1/prices": Call(OPEN),
    "GET /v1/prices/changelog": Call(OPEN),
    "POST /v1/admin/price-books": Call(ADMIN, body=_BOOK),
    "DELETE /v1/admin/price-books/{version}": Call(ADMIN),
    "POST /v1/admin/projects": Call(ADMIN, body={"project": "{project}"}),
    "GET /v1/admin/projects": Call(ADMIN),
    "GET /v1/admin/projects/{project}": Call(ADMIN),
    "PUT /v1/admin/projects/{project}/plan": Call(ADMIN, body={"plan": "scale"}),
    "PUT /v1/admin/projects/{project}/state": Call(ADMIN, body={"closed": True}),
    "PUT /v1/admin/projects/{project}/standing": Call(ADMIN, body={"good_standing": False}),
    "PUT /v1/admin/projects/{project}/badge": Call(ADMIN, body={"shown": False}),
    "POST /v1/admin/projects/{project}/keys": Call(ADMIN, body={}),
    "GET /v1/admin/projects/{project}/keys": Call(ADMIN),
    "POST /v1/admin/projects/{project}/keys/{key_id}/rotation": Call(ADMIN, body={}),
    "DELETE /v1/admin/projects/{project}/keys/{key_id}": Call(ADMIN),
    "POST /v1/admin/projects/{project}/top-ups": Call(ADMIN, body={"bundle_usd": 20}),
    "POST /v1/admin/projects/{project}/refunds": Call(ADMIN, body={"grant_id": "{grant}"}),
    "POST /v1/admin/projects/{project}/grants": Call(
        ADMIN, body={"amount": "1", "reason": "mine", "expires_at": "2190-01-01T00:00:00Z"}
    ),
    "GET /v1/admin/projects/{project}/auto-recharge": Call(ADMIN),
    "PUT /v1/admin/projects/{project}/auto-recharge": Call(ADMIN, body={"on": False}),
    "PUT /v1/admin/projects/{project}/items/{item}": Call(ADMIN, body={"quantity": 1}),
    "GET /v1/admin/projects/{project}/limits": Call(ADMIN),
    "PUT /v1/admin/projects/{project}/limits": Call(ADMIN, body={"burst": 1}),
    "POST /v1/admin/projects/{project}/limit-raises": Call(
        ADMIN, body={"burst": 1, "ends_at": "2190-01-01T00:00:00Z", "reason": "mine"}
    ),
    "DELETE /v1/admin/projects/{project}/limit-raises/{raise_id}": Call(ADMIN),
    "POST /v1/admin/projects/{project}/corrections": Call(
        ADMIN, body={"source": "{source}", "id": "{event}", "action": "void"}
    ),
    "POST /v1/admin/projects/{project}/erasures": Call(ADMIN, body={}),
    "GET /v1/admin/projects/{project}/erasures/{entry_id}": Call(ADMIN),
    "GET /v1/admin/status": Call(ADMIN),
    "GET /v1/admin/dead-letters": Call(ADMIN),
    "GET /v1/admin/dead-letters/{dead_letter_id}": Call(ADMIN),
    "GET /v1/notices": Call(READ, named=_PROJECT),
    "GET /v1/notice-rules": Call(READ, named=_PROJECT),
    "PUT /v1/notice-rules": Call(WRITE, body={"rules": [{"percent": 50}]}, named=_PROJECT),
    "GET /v1/audit": Call(AUDIT, named=_PROJECT),
    "GET /v1/audit/keys": Call(AUDIT, named=_PROJECT),
    "POST /v1/admin/billing-accounts": Call(ADMIN, body={"id": "{billing_account}", **_TERMS}),
    "GET /v1/admin/billing-accounts": Call(ADMIN),
    "GET /v1/admin/billing-accounts/{billing_account}": Call(ADMIN),
    "PUT /v1/admin/billing-accounts/{billing_account}": Call(ADMIN, body=_TERMS),
    "PUT /v1/admin/projects/{project}/billing-account": Call(ADMIN, body={"billing_account": "{billing_account}"}),
    "GET /v1/admin/billing-accounts/{billing_account}/invoices": Call(ADMIN),
    "GET /v1/admin/billing-accounts/{billing_account}/invoices/{month}": Call(ADMIN),
    "GET /v1/invoices": Call(BILLING, named=_PROJECT),
    "GET /v1/invoices/{month}": Call(BILLING, named=_PROJECT),
    **_of_endpoints(_ENDPOINTS, HOOKS_READ, HOOKS_WRITE, _PROJECT),
    **_of_endpoints(_PLATFORMS, ADMIN, ADMIN, {}),
    "POST /v1/portal-links": Call(PORTAL, body={"customer_id": "{secret}"}, named=_PROJECT),
    "DELETE /v1/portal-links": Call(PORTAL, named=_PROJECT),
    "POST /v1/admin/projects/{project}/portal-links": Call(ADMIN, body={}),
    "DELETE /v1/admin/projects/{project}/portal-links": Call(ADMIN),
    "GET /healthz": Call(OPEN),
    "GET /readyz": Call(OPEN),
}

# What stands for each parameter of a path: what is tried, one after the other.
PATHS: dict[str, tuple[str, ...]] = {
    "project": ("{project}",),
    "hold_id": ("{hold}",),
    "source": ("{source}",),
    "id": ("{event}", "{entry}", "{hold}", "{grant}", "recharge-{entry}", "{request}"),
    "key_id": ("{key_id}",),
    "version": ("2026-01",),
    "raise_id": ("{raise}",),
    "entry_id": ("{entry}",),
    "item": ("chat.message",),
    "dead_letter_id": ("meterline.usage:0:0:0",),
    "billing_account": ("{billing_account}",),
    "month": ("{month}",),
    "endpoint_id": ("{endpoint}",),
}


def filled(value: Any, belongings: Mapping[str, str]) -> Any:
    """A call's part with all texts in braces filled in with somebody's belongings."""
    if isinstance(value, str):
        return value.format_map(belongings)
    if isinstance(value, Mapping):
        return {name: filled(each, belongings) for name, each in value.items()}
    if isinstance(value, list):
        return [filled(each, belongings) for each in value]
    return value
