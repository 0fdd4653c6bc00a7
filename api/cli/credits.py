"""`meterline credits` shows balances, grants and refunds what is bought, gives promotional credits, sets auto-recharge,
and corrects what events were charged."""

from __future__ import annotations

import re
from decimal import Decimal
from hashlib import blake2b
from typing import Annotated, Any

import typer

from api.cli.asking import DryRunOption, YesOption, may
from api.cli.options import (
    ENVIRONMENT_HELP,
    WHERE,
    EnvironmentOption,
    EventArgument,
    JsonOption,
    KeyOption,
    MediaTypeOption,
    NeededReasonOption,
    ProjectArgument,
    QuantityOption,
    ReasonOption,
    SourceArgument,
    TierOption,
    VerboseOption,
)
from api.cli.output import show, tell
from api.cli.service import Api

app = typer.Typer(
    help=f"Show balances, grant and refund what is bought, give credits, set auto-recharge, correct events. {WHERE}",
    no_args_is_help=True,
)
_DOLLARS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,2})?")


@app.command("balance")
def balance(
    project: ProjectArgument,
    environment: EnvironmentOption = "production",
    at: Annotated[
        str | None, typer.Option("--at", help="RFC 3339 with a zone; a past instant, now if left out.")
    ] = None,
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
    bundle: Annotated[int | None, typer.Argument(help="A bundle: 20, 100 or 500 dollars")] = None,
    amount: Annotated[
        str | None, typer.Option("--amount", help="By contract: how many credits, as in 250000 or 0.02")
    ] = None,
    price: Annotated[
        str | None, typer.Option("--price", help="By contract: what they cost, in dollars, as in 900 or 900.50")
    ] = None,
    environment: EnvironmentOption = "production",
    reference: Annotated[
        str, typer.Option("--reference", help="The payment's reference: it is booked once, however often you ask")
    ] = "",
    idempotency_key: KeyOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Grant credits that were paid for: a bundle, or by contract an --amount with its --price. A reference is the
    idempotency key too, where none is given."""
    body = {"bundle_usd": bundle, "environment": environment, "reference": reference}
    if amount is not None or price is not None:
        body |= {"credits": amount, "price_cents": None if price is None else _cents(price)}
    if reference and idempotency_key is None:
        # Of what is bought too: for something else under this reference the answer names the first entry.
        idempotency_key = f"payment:{blake2b(repr(body).encode(), digest_size=16).hexdigest()}"
    answer = Api().call("POST", f"/v1/admin/projects/{project}/top-ups", body, key=idempotency_key).json()
    tell(answer, ("project", "granted", "cents", "available", "entry_id"), as_json, verbose)


@app.command("grant")
def grant(
    project: ProjectArgument,
    amount: Annotated[str, typer.Argument(help="Credits, as in 500 or 0.02")],
    reason: NeededReasonOption,
    expires_at: Annotated[str, typer.Option("--expires-at", help="When they end, RFC 3339 with a zone")],
    environment: EnvironmentOption = "production",
    idempotency_key: KeyOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give promotional credits, which end: they are spent after the allowance, and before any bundle."""
    body = {"amount": amount, "reason": reason, "expires_at": expires_at, "environment": environment}
    answer = Api().call("POST", f"/v1/admin/projects/{project}/grants", body, key=idempotency_key).json()
    tell(answer, ("project", "grant_id", "granted", "expires_at", "available"), as_json, verbose)


@app.command("refund")
def refund(
    project: ProjectArgument,
    grant_id: Annotated[str, typer.Argument(help="The grant_id of bought credits, from `credits balance`")],
    reason: ReasonOption = "",
    idempotency_key: KeyOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take back what is left of bought credits. Meterline moves no money: you pay it back, by the means by which it
    came."""
    body = {"grant_id": grant_id, "reason": reason}
    service, url = Api(), f"/v1/admin/projects/{project}/refunds"

    def plan() -> Any:
        return service.call("POST", url, body, dry_run=True).json()

    if may("refund", plan, yes=yes, dry_run=dry_run, as_json=as_json):
        answer = service.call("POST", url, body, key=idempotency_key).json()
        tell(answer, ("project", "taken_back", "refund_cents", "available", "pay_back"), as_json, verbose)


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
    verbose: VerboseOption = False,
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
    answer = Api().call("PUT", url, body).json()
    tell(answer, ("on", "threshold", "bundle_usd", "cap_usd", "payment_method"), as_json, verbose)


@app.command("void")
def void(
    project: ProjectArgument,
    source: SourceArgument,
    event_id: EventArgument,
    reason: NeededReasonOption,
    idempotency_key: KeyOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Void an event that should not have been charged: all that it was charged comes back."""
    body = {"source": source, "id": event_id, "reason": reason, "action": "void"}
    _correct(project, body, idempotency_key, yes, dry_run, verbose, as_json)


@app.command("amend")
def amend(
    project: ProjectArgument,
    source: SourceArgument,
    event_id: EventArgument,
    operation: Annotated[str, typer.Option("--operation", help="The operation; the one that it was.")],
    reason: NeededReasonOption,
    quantity: QuantityOption = None,
    media_type: MediaTypeOption = None,
    tier: TierOption = None,
    environment: Annotated[
        str | None, typer.Option("--environment", help=f"{ENVIRONMENT_HELP}; the event's own if left out.")
    ] = None,
    idempotency_key: KeyOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Amend an event that was charged wrongly: what it was charged comes back, and what it was is charged."""
    data = _data(operation, quantity, media_type, tier, environment)
    body = {"source": source, "id": event_id, "reason": reason, "action": "amend", "data": data}
    _correct(project, body, idempotency_key, yes, dry_run, verbose, as_json)


@app.command("bill-late")
def bill_late(
    project: ProjectArgument,
    source: SourceArgument,
    event_id: EventArgument,
    operation: Annotated[str, typer.Option("--operation", help="The operation; the one that it was.")],
    occurred_at: Annotated[str, typer.Option("--occurred-at", help="When it happened, RFC 3339 with a zone.")],
    reason: NeededReasonOption,
    quantity: QuantityOption = None,
    media_type: MediaTypeOption = None,
    tier: TierOption = None,
    environment: EnvironmentOption = "production",
    idempotency_key: KeyOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Bill an event that was refused or never came, at the price of when it happened."""
    data = _data(operation, quantity, media_type, tier, environment)
    body = {"source": source, "id": event_id, "reason": reason, "action": "late", "data": data, "time": occurred_at}
    _correct(project, body, idempotency_key, yes, dry_run, verbose, as_json)


def _cents(dollars: str) -> int:
    """US cents of dollars with at most two decimals."""
    if not _DOLLARS.fullmatch(dollars):
        raise typer.BadParameter("dollars with at most two decimals, as in 900 or 900.50", param_hint="--price")
    return int(Decimal(dollars) * 100)


def _data(
    operation: str, quantity: int | None, media_type: str | None, tier: str | None, environment: str | None
) -> dict[str, Any]:
    data = {
        "operation": operation,
        "quantity": quantity,
        "media_type": media_type,
        "tier": tier,
        "environment": environment,
    }
    return {name: value for name, value in data.items() if value is not None}


def _correct(
    project: str, body: dict[str, Any], key: str | None, yes: bool, dry_run: bool, verbose: bool, as_json: bool
) -> None:
    service, url = Api(), f"/v1/admin/projects/{project}/corrections"
    word = "bill-late" if body["action"] == "late" else body["action"]

    def plan() -> Any:
        return service.call("POST", url, body, dry_run=True).json()

    if may(word, plan, yes=yes, dry_run=dry_run, as_json=as_json):
        answer = service.call("POST", url, body, key=key).json()
        tell(answer, ("project", "id", "change", "available", "entry_id"), as_json, verbose)
