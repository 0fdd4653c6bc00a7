"""`meterline credits` shows balances, grants and refunds bundles, gives promotional credits, sets auto-recharge, and
corrects events."""

from __future__ import annotations

from hashlib import blake2b
from typing import Annotated, Any

import typer

from api.cli.options import WHERE, EnvironmentOption, JsonOption, KeyOption, ProjectArgument, ReasonOption
from api.cli.output import show
from api.cli.service import Api

app = typer.Typer(
    help=f"Show balances, grant and refund bundles, give credits, set auto-recharge, correct events. {WHERE}",
    no_args_is_help=True,
)


@app.command("balance")
def balance(
    project: ProjectArgument,
    environment: EnvironmentOption = "production",
    at: Annotated[str | None, typer.Option("--at", help="A past instant, RFC 3339 with a zone")] = None,
    min_offset: Annotated[
        int | None, typer.Option("--min-offset", min=0, help="Wait until it holds the effect of this offset")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a project's balance, now or at a past instant, with the first hundred of its grants."""
    found = Api().call("GET", "/v1/balance", project=project, environment=environment, at=at, min_offset=min_offset)
    show(found.json(), as_json)


@app.command("top-up")
def top_up(
    project: ProjectArgument,
    bundle: Annotated[int, typer.Argument(help="20, 100 or 500 dollars")],
    environment: EnvironmentOption = "production",
    reference: Annotated[
        str, typer.Option("--reference", help="The payment's reference: it is booked once, however often you ask")
    ] = "",
    idempotency_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Grant a bundle that was paid for. A reference is the idempotency key too, where none is given."""
    body = {"bundle_usd": bundle, "environment": environment, "reference": reference}
    if reference and idempotency_key is None:
        # Of what is bought too: for something else under this reference the answer names the first entry.
        idempotency_key = f"payment:{blake2b(repr(body).encode(), digest_size=16).hexdigest()}"
    show(Api().call("POST", f"/v1/admin/projects/{project}/top-ups", body, key=idempotency_key).json(), as_json)


@app.command("grant")
def grant(
    project: ProjectArgument,
    amount: Annotated[str, typer.Argument(help="Credits, as in 500 or 0.02")],
    reason: Annotated[str, typer.Option("--reason", help="Why they are given, kept with the entry")],
    expires_at: Annotated[str, typer.Option("--expires-at", help="When they end, RFC 3339 with a zone")],
    environment: EnvironmentOption = "production",
    idempotency_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give promotional credits, which end: they are spent after the allowance, and before any bundle."""
    body = {"amount": amount, "reason": reason, "expires_at": expires_at, "environment": environment}
    show(Api().call("POST", f"/v1/admin/projects/{project}/grants", body, key=idempotency_key).json(), as_json)


@app.command("refund")
def refund(
    project: ProjectArgument,
    grant_id: Annotated[str, typer.Argument(help="The bundle's grant_id, from `credits balance`")],
    reason: ReasonOption = "",
    idempotency_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take back what is left of a bundle, whose money you give back."""
    body = {"grant_id": grant_id, "reason": reason}
    show(Api().call("POST", f"/v1/admin/projects/{project}/refunds", body, key=idempotency_key).json(), as_json)


@app.command("auto-recharge")
def auto_recharge(
    project: ProjectArgument,
    on: Annotated[bool | None, typer.Option("--on/--off", help="Turn it on or off; without either, show it")] = None,
    threshold: Annotated[
        str, typer.Option("--threshold", help="Buy a bundle when fewer credits are available than this")
    ] = "0",
    bundle: Annotated[int, typer.Option("--bundle", help="The bundle to buy: 20, 100 or 500 dollars")] = 20,
    cap: Annotated[int, typer.Option("--cap", help="Spend at most this many dollars in a calendar month")] = 0,
    payment_method: Annotated[
        str, typer.Option("--payment-method", help="What to charge, as the provider names it: cus_…/pm_… at Stripe")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Turn auto-recharge on or off: it buys a bundle by itself whenever credits run low."""
    url = f"/v1/admin/projects/{project}/auto-recharge"
    if on is None:
        show(Api().call("GET", url).json(), as_json)
        return
    body: dict[str, Any] = {"on": on}
    if on:
        body |= {"threshold": threshold, "bundle_usd": bundle, "cap_usd": cap, "payment_method": payment_method}
    show(Api().call("PUT", url, body).json(), as_json)


@app.command("correct")
def correct(
    project: ProjectArgument,
    source: Annotated[str, typer.Argument(help="The event's `source`")],
    event_id: Annotated[str, typer.Argument(help="The event's `id`")],
    operation: Annotated[
        str | None,
        typer.Option("--operation", help="The operation it should have been; without it, the event is voided"),
    ] = None,
    quantity: Annotated[int | None, typer.Option("--quantity", min=1)] = None,
    media_type: Annotated[
        str | None, typer.Option("--media-type", help="What a social post came with: none, image or video")
    ] = None,
    tier: Annotated[str | None, typer.Option("--tier", help="A video's tier: budget or premium")] = None,
    environment: Annotated[
        str | None, typer.Option("--environment", help="production or preview; the event's own if left out")
    ] = None,
    late: Annotated[
        str | None, typer.Option("--late", help="When it happened (RFC 3339), for an event that was never billed")
    ] = None,
    reason: ReasonOption = "",
    idempotency_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Correct an event by new entries: void it, change it, or bill one that came too late."""
    body: dict[str, Any] = {"source": source, "id": event_id, "reason": reason, "action": "void"}
    data = {
        name: value
        for name, value in {
            "operation": operation,
            "quantity": quantity,
            "media_type": media_type,
            "tier": tier,
            "environment": environment,
        }.items()
        if value is not None
    }
    if data or late:
        body |= {"action": "late" if late else "amend", "data": data}
        if late:
            body["time"] = late
    url = f"/v1/admin/projects/{project}/corrections"
    show(Api().call("POST", url, body, key=idempotency_key).json(), as_json)
