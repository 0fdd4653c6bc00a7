"""`meterline credits`: balances, bundles, refunds, auto-recharge, corrections."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.options import WHERE, EnvironmentOption, JsonOption, KeyOption, ProjectArgument, ReasonOption
from api.cli.output import show
from api.cli.service import Api

app = typer.Typer(help=f"Bundles, refunds, auto-recharge, balances. {WHERE}", no_args_is_help=True)


@app.command("balance")
def balance(
    project: ProjectArgument,
    environment: EnvironmentOption = "production",
    at: Annotated[str | None, typer.Option("--at", help="A past instant, RFC 3339 with a zone")] = None,
    as_json: JsonOption = False,
) -> None:
    """What a project has, now or at a past instant."""
    found = Api().call("GET", "/v1/balance", project=project, environment=environment, at=at)
    show(found.json(), as_json)


@app.command("top-up")
def top_up(
    project: ProjectArgument,
    bundle: Annotated[int, typer.Argument(help="20, 100 or 500 dollars")],
    environment: EnvironmentOption = "production",
    reference: Annotated[str, typer.Option("--reference", help="The payment's own, kept with the entry")] = "",
    idempotency_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Grant a bundle that was paid for."""
    body = {"bundle_usd": bundle, "environment": environment, "reference": reference}
    show(Api().call("POST", f"/v1/admin/projects/{project}/top-ups", body, key=idempotency_key).json(), as_json)


@app.command("refund")
def refund(
    project: ProjectArgument,
    grant_id: Annotated[str, typer.Argument(help="The bundle's, from `credits balance`")],
    reason: ReasonOption = "",
    idempotency_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Take back what is left of a bundle whose money is given back."""
    body = {"grant_id": grant_id, "reason": reason}
    show(Api().call("POST", f"/v1/admin/projects/{project}/refunds", body, key=idempotency_key).json(), as_json)


@app.command("auto-recharge")
def auto_recharge(
    project: ProjectArgument,
    on: Annotated[bool | None, typer.Option("--on/--off", help="Without it, show the terms")] = None,
    threshold: Annotated[str, typer.Option("--threshold", help="Credits under which a bundle is bought")] = "0",
    bundle: Annotated[int, typer.Option("--bundle", help="20, 100 or 500 dollars")] = 20,
    cap: Annotated[int, typer.Option("--cap", help="Dollars a calendar month at most")] = 0,
    payment_method: Annotated[str, typer.Option("--payment-method", help="cus_…/pm_… at Stripe")] = "",
    as_json: JsonOption = False,
) -> None:
    """Buy a bundle by itself whenever credits run low, or stop doing so."""
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
        str | None, typer.Option("--operation", help="What it should have been; without it the event is voided")
    ] = None,
    quantity: Annotated[int | None, typer.Option("--quantity", min=1)] = None,
    media_type: Annotated[str | None, typer.Option("--media-type", help="Of a social post: none, image, video")] = None,
    tier: Annotated[str | None, typer.Option("--tier", help="Of a video: budget, premium")] = None,
    environment: Annotated[str | None, typer.Option("--environment", help="production or preview; its own")] = None,
    late: Annotated[str | None, typer.Option("--late", help="It was never billed and happened then (RFC 3339)")] = None,
    reason: ReasonOption = "",
    idempotency_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Put an event right by new entries: void it, change it, or bill one that came too late."""
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
