"""The operator's commands: projects, money, prices, jobs. Each is one call of the HTTP service, printed."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from typer.core import TyperGroup

from streams.errors import OperatorError
from streams.running import find_running
from streams.settings import Settings

RETRIES = 4

JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
ProjectArgument = Annotated[str, typer.Argument(help="The project's id.")]
EnvironmentOption = Annotated[str, typer.Option("--environment", help="production or preview")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Kept with the entry.")]
KeyOption = Annotated[
    str,
    typer.Option("--idempotency-key", help="The same key acts once, however often it is sent; a new one unless given."),
]

RequestsOption = Annotated[int | None, typer.Option("--requests", min=1, help="Requests a minute.")]
BurstOption = Annotated[int | None, typer.Option("--burst", min=1, help="Requests at once, after a rest.")]
CeilingOption = Annotated[str | None, typer.Option("--ceiling", help="Credits a minute, such as 500 or 0.5.")]

_WHERE = "The API is that of a running `meterline up`, or METERLINE_API_URL; the key METERLINE_ADMIN_KEY."

projects = typer.Typer(help=f"Open projects, put them on plans, close them. {_WHERE}", no_args_is_help=True)
credits = typer.Typer(help=f"Bundles, refunds, auto-recharge, balances. {_WHERE}", no_args_is_help=True)
holds = typer.Typer(help=f"Jobs whose credits are held. {_WHERE}", no_args_is_help=True)
prices = typer.Typer(help=f"Price books. {_WHERE}", no_args_is_help=True)
limits = typer.Typer(
    help=f"Requests and credits a minute: by contract, on trial, or raised for a while. {_WHERE}",
    no_args_is_help=True,
)
billing = typer.Typer(help=f"Billing accounts and invoices. {_WHERE}", no_args_is_help=True)


class _ListsByDefault(TyperGroup):
    """A group whose command `list` need not be named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


audit = typer.Typer(
    help=f"What was refused, what was done and with whose key: `audit`, `audit PROJECT`, `audit keys`. {_WHERE}",
    cls=_ListsByDefault,
)


class Api:
    """The HTTP service, with the operator's key."""

    def __init__(self, url: str | None = None, admin_key: str | None = None) -> None:
        settings = Settings()
        running = find_running(settings)
        self.url = url or settings.api_url or (running.api_url if running else None)
        self.url = self.url or f"http://{settings.api_host}:{settings.api_port}"
        local_key = settings.data_dir / "admin-key"
        known = settings.admin_key.get_secret_value() if settings.admin_key else ""
        key = admin_key or known or (local_key.read_text().strip() if local_key.exists() else "")
        if not key:
            raise OperatorError("There is no admin key: set METERLINE_ADMIN_KEY, or start `meterline up` here first")
        self._client = httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=60.0)

    def call(self, method: str, path: str, body: object = None, *, key: str = "", **params: Any) -> httpx.Response:
        """Send it, again under the same key where it is not known what became of it. Raises OperatorError."""
        headers = {"idempotency-key": key or f"cli-{secrets.token_hex(12)}"}
        sent = {name: value for name, value in params.items() if value is not None}
        for attempt in range(RETRIES):
            try:
                response = self._client.request(method, path, json=body, params=sent, headers=headers)
            except httpx.TransportError as error:
                if attempt + 1 == RETRIES:
                    raise OperatorError(f"{self.url} can't be reached: {error}. Is `meterline up` running?") from None
            else:
                if response.is_success:
                    return response
                if response.status_code != 503 or attempt + 1 == RETRIES:
                    raise OperatorError(_problem(response))
            time.sleep(0.3 * 2**attempt)
        raise AssertionError

    def follow(self, path: str, body: object) -> Iterator[Any]:
        """POST it once, and give each JSON line of the answer as it comes. Raises OperatorError."""
        headers = {"accept": "application/x-ndjson"}
        try:
            with self._client.stream("POST", path, json=body, headers=headers) as response:
                if not response.is_success:
                    response.read()
                    raise OperatorError(_problem(response))
                for line in response.iter_lines():
                    yield json.loads(line)
        except httpx.TransportError as error:
            raise OperatorError(f"{self.url} can't be reached: {error}. Is `meterline up` running?") from None


def show(answer: Any, as_json: bool) -> None:
    """As JSON, or a line for each thing that is said."""
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    for line in _lines(answer, ""):
        print(line)


@projects.command("create")
def create_project(
    project: ProjectArgument,
    plan: Annotated[str, typer.Option("--plan", help="free, hobby, build, scale or enterprise")] = "free",
    name: Annotated[str, typer.Option("--name")] = "",
    contract_credits: Annotated[int, typer.Option("--contract-credits", help="A month; enterprise only")] = 0,
    contract_cents: Annotated[int, typer.Option("--contract-cents", help="US cents a month; enterprise only")] = 0,
    billing_account: Annotated[str | None, typer.Option("--billing-account", help="Whose invoice it is on")] = None,
    as_json: JsonOption = False,
) -> None:
    """Open a project; its first allowance is granted at once."""
    body = {
        "project": project,
        "name": name,
        "plan": plan,
        "contract_credits": contract_credits,
        "contract_cents": contract_cents,
        "billing_account": billing_account,
    }
    show(Api().call("POST", "/v1/admin/projects", body).json(), as_json)


@projects.command("show")
def show_project(project: ProjectArgument, as_json: JsonOption = False) -> None:
    """A project as it is."""
    show(Api().call("GET", f"/v1/admin/projects/{project}").json(), as_json)


@projects.command("plan")
def change_plan(
    project: ProjectArgument,
    plan: Annotated[str, typer.Argument(help="free, hobby, build, scale or enterprise")],
    contract_credits: Annotated[int, typer.Option("--contract-credits", help="A month; enterprise only")] = 0,
    contract_cents: Annotated[int, typer.Option("--contract-cents", help="US cents a month; enterprise only")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Another plan: at once where it gives more, from the renewal on where it gives less."""
    body = {"plan": plan, "contract_credits": contract_credits, "contract_cents": contract_cents}
    show(Api().call("PUT", f"/v1/admin/projects/{project}/plan", body).json(), as_json)


@projects.command("close")
def close_project(project: ProjectArgument, reason: ReasonOption = "", as_json: JsonOption = False) -> None:
    """Let a project spend nothing more."""
    body = {"closed": True, "reason": reason}
    show(Api().call("PUT", f"/v1/admin/projects/{project}/state", body).json(), as_json)


@projects.command("reopen")
def reopen_project(project: ProjectArgument, as_json: JsonOption = False) -> None:
    """Let a closed project go on."""
    show(Api().call("PUT", f"/v1/admin/projects/{project}/state", {"closed": False}).json(), as_json)


@projects.command("standing")
def set_standing(
    project: ProjectArgument,
    good: Annotated[bool, typer.Option("--good/--bad", help="One in bad standing gets no refunds")],
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say whether a project is in good standing."""
    body = {"good_standing": good, "reason": reason}
    show(Api().call("PUT", f"/v1/admin/projects/{project}/standing", body).json(), as_json)


@projects.command("badge")
def set_badge(
    project: ProjectArgument, shown: Annotated[bool, typer.Option("--shown/--hidden")], as_json: JsonOption = False
) -> None:
    """Show the "Built with" badge or not; a free project shows it always."""
    show(Api().call("PUT", f"/v1/admin/projects/{project}/badge", {"shown": shown}).json(), as_json)


@projects.command("item")
def set_item(
    project: ProjectArgument,
    item: Annotated[str, typer.Argument(help="A recurring line item that the price book has")],
    quantity: Annotated[int, typer.Argument(min=0, help="Units from now on; 0 ends it")],
    as_json: JsonOption = False,
) -> None:
    """Have this many units of a recurring line item."""
    show(Api().call("PUT", f"/v1/admin/projects/{project}/items/{item}", {"quantity": quantity}).json(), as_json)


@projects.command("items")
def list_items(project: ProjectArgument, as_json: JsonOption = False) -> None:
    """The recurring line items, and what they come to so far this month."""
    show(Api().call("GET", "/v1/items", project=project).json(), as_json)


@credits.command("balance")
def balance(
    project: ProjectArgument,
    environment: EnvironmentOption = "production",
    at: Annotated[str | None, typer.Option("--at", help="A past instant, RFC 3339 with a zone")] = None,
    as_json: JsonOption = False,
) -> None:
    """What a project has, now or at a past instant."""
    found = Api().call("GET", "/v1/balance", project=project, environment=environment, at=at)
    show(found.json(), as_json)


@credits.command("top-up")
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


@credits.command("refund")
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


@credits.command("auto-recharge")
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


@credits.command("correct")
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


@holds.command("place")
def place(
    project: ProjectArgument,
    operation: Annotated[str, typer.Argument(help="What the job does, such as blog_post")],
    job: Annotated[str, typer.Argument(help="The job's id; placing it again costs nothing")],
    quantity: Annotated[int | None, typer.Option("--quantity", min=1)] = None,
    media_type: Annotated[str | None, typer.Option("--media-type", help="A social post's: image or video")] = None,
    tier: Annotated[str | None, typer.Option("--tier", help="A video's: budget or premium")] = None,
    seconds: Annotated[int | None, typer.Option("--seconds", min=1, max=604_800, help="3600 unless given")] = None,
    environment: EnvironmentOption = "production",
    as_json: JsonOption = False,
) -> None:
    """Hold a job's credits, as the gateway does when it queues one."""
    given = {"quantity": quantity, "media_type": media_type, "tier": tier, "hold_seconds": seconds}
    body = {
        "project": project,
        "operation": operation,
        "job_id": job,
        "hold": True,
        "environment": environment,
        **{name: value for name, value in given.items() if value is not None},
    }
    show(Api().call("POST", "/v1/admissions", body).json(), as_json)


@holds.command("list")
def list_holds(project: ProjectArgument, as_json: JsonOption = False) -> None:
    """The open holds, the oldest first."""
    show(Api().call("GET", "/v1/holds", project=project).json(), as_json)


@holds.command("capture")
def capture(
    project: ProjectArgument,
    hold_id: Annotated[str, typer.Argument()],
    amount: Annotated[str | None, typer.Option("--credits", help="Less than was held; the rest is released")] = None,
    as_json: JsonOption = False,
) -> None:
    """Charge a job."""
    show(
        Api()
        .call(
            "POST",
            f"/v1/holds/{hold_id}/capture",
            {"credits": amount},
            key=f"cli-capture-{hold_id}-{amount}",
            project=project,
        )
        .json(),
        as_json,
    )


@holds.command("release")
def release(
    project: ProjectArgument,
    hold_id: Annotated[str, typer.Argument()],
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Give a job's credits back."""
    url = f"/v1/holds/{hold_id}/release"
    show(Api().call("POST", url, {"reason": reason}, project=project).json(), as_json)


@holds.command("extend")
def extend(
    project: ProjectArgument,
    hold_id: Annotated[str, typer.Argument()],
    seconds: Annotated[int, typer.Argument(min=1, max=604_800)],
    as_json: JsonOption = False,
) -> None:
    """Let a hold last this long from now."""
    url = f"/v1/holds/{hold_id}/extend"
    show(Api().call("POST", url, {"seconds": seconds}, project=project).json(), as_json)


@limits.command("show")
def show_limits(project: ProjectArgument, as_json: JsonOption = False) -> None:
    """The limits in force now, and what they come from: plan, contract, raises; those on trial."""
    show(Api().call("GET", f"/v1/admin/projects/{project}/limits").json(), as_json)


@limits.command("set")
def set_limits(
    project: ProjectArgument,
    requests: RequestsOption = None,
    burst: BurstOption = None,
    ceiling: CeilingOption = None,
    end: Annotated[bool, typer.Option("--end", help="Go back to the plan's.")] = False,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Other limits than the plan's, for good: a contract. They replace those set before; what is left out is the
    plan's."""
    _set_limits(project, _some_limits(requests, burst, ceiling), end, reason, as_json, is_shadow=False)


@limits.command("shadow")
def shadow_limits(
    project: ProjectArgument,
    requests: RequestsOption = None,
    burst: BurstOption = None,
    ceiling: CeilingOption = None,
    end: Annotated[bool, typer.Option("--end", help="End the trial.")] = False,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Try limits: what they would have refused is in `audit --kind shadow`, and nothing is refused."""
    _set_limits(project, _some_limits(requests, burst, ceiling), end, reason, as_json, is_shadow=True)


@limits.command("raise")
def raise_limits(
    project: ProjectArgument,
    until: Annotated[str, typer.Option("--until", help="When it ends: RFC 3339 with a zone")],
    reason: Annotated[str, typer.Option("--reason", help="Such as the launch it is for; kept in the audit log.")],
    since: Annotated[str | None, typer.Option("--from", help="When it begins: RFC 3339 with a zone; now")] = None,
    requests: RequestsOption = None,
    burst: BurstOption = None,
    ceiling: CeilingOption = None,
    idempotency_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Raise limits for a window of time, without changing the plan."""
    body = _some_limits(requests, burst, ceiling) | {"ends_at": until, "reason": reason}
    if since is not None:
        body["starts_at"] = since
    url = f"/v1/admin/projects/{project}/limit-raises"
    show(Api().call("POST", url, body, key=idempotency_key).json(), as_json)


@limits.command("end-raise")
def end_raise(
    project: ProjectArgument,
    raise_id: Annotated[str, typer.Argument(help="From `limits show`")],
    as_json: JsonOption = False,
) -> None:
    """End a raise now, or take back one that has not begun. Prints the limits without it."""
    api = Api()
    api.call("DELETE", f"/v1/admin/projects/{project}/limit-raises/{raise_id}")
    show(api.call("GET", f"/v1/admin/projects/{project}/limits").json(), as_json)


@prices.command("list")
def list_prices(
    at: Annotated[str | None, typer.Option("--at", help="RFC 3339; a future time shows what is announced")] = None,
    as_json: JsonOption = False,
) -> None:
    """What every operation costs."""
    show(Api().call("GET", "/v1/prices", at=at).json(), as_json)


@prices.command("changelog")
def price_changelog(as_json: JsonOption = False) -> None:
    """Every price book and what it changed, the newest first."""
    show(Api().call("GET", "/v1/prices/changelog").json(), as_json)


@prices.command("announce")
def announce(
    file: Annotated[Path, typer.Argument(help="JSON: version, effective_at, and the rates that differ")],
    as_json: JsonOption = False,
) -> None:
    """Announce a price book, for good. An increase takes effect 30 days from now or later."""
    show(Api().call("POST", "/v1/admin/price-books", read_json(file)).json(), as_json)


@billing.command("create")
def create_billing_account(
    account: Annotated[str, typer.Argument(help="The billing account's id")],
    name: Annotated[str, typer.Option("--name")],
    email: Annotated[str, typer.Option("--email")] = "",
    as_json: JsonOption = False,
) -> None:
    """Open a billing account."""
    body = {"id": account, "name": name, "email": email}
    show(Api().call("POST", "/v1/admin/billing-accounts", body).json(), as_json)


@billing.command("assign")
def assign_billing_account(
    project: ProjectArgument,
    account: Annotated[
        str | None, typer.Argument(help="The billing account; without it, an invoice of its own")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a project on a billing account's invoice from now on."""
    url = f"/v1/admin/projects/{project}/billing-account"
    show(Api().call("PUT", url, {"billing_account": account}).json(), as_json)


@billing.command("list")
def list_billing_accounts(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 100,
    cursor: Annotated[str | None, typer.Option("--cursor", help="The `next_cursor` of the page before")] = None,
    as_json: JsonOption = False,
) -> None:
    """Every billing account, by id."""
    show(Api().call("GET", "/v1/admin/billing-accounts", limit=limit, cursor=cursor).json(), as_json)


@billing.command("change")
def change_billing_account(
    account: Annotated[str, typer.Argument(help="The billing account's id")],
    name: Annotated[str, typer.Option("--name")],
    email: Annotated[str, typer.Option("--email")],
    as_json: JsonOption = False,
) -> None:
    """Another name and address, on every invoice of it."""
    body = {"name": name, "email": email}
    show(Api().call("PUT", f"/v1/admin/billing-accounts/{account}", body).json(), as_json)


@billing.command("show")
def show_billing_account(account: Annotated[str, typer.Argument()], as_json: JsonOption = False) -> None:
    """A billing account and its projects."""
    show(Api().call("GET", f"/v1/admin/billing-accounts/{account}").json(), as_json)


@billing.command("invoice")
def invoice(
    account: Annotated[str, typer.Argument(help="The billing account's id")],
    month: Annotated[str, typer.Argument(help="YYYY-MM")],
    form: Annotated[str, typer.Option("--format", help="json, csv or html")] = "json",
    out: Annotated[Path | None, typer.Option("--out", help="Write it here")] = None,
) -> None:
    """A month's invoice, as JSON, CSV or a page to print."""
    _write(Api().call("GET", f"{_invoices(account, None)}/{month}", format=form), out)


@billing.command("statement")
def statement(
    project: ProjectArgument,
    month: Annotated[str, typer.Argument(help="YYYY-MM")],
    form: Annotated[str, typer.Option("--format", help="json, csv or html")] = "json",
    out: Annotated[Path | None, typer.Option("--out", help="Write it here")] = None,
) -> None:
    """One project's own part of a month, whoever's invoice it is on."""
    _write(Api().call("GET", f"{_invoices(None, project)}/{month}", format=form, project=project), out)


def _write(answer: httpx.Response, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(answer.text)
    else:
        out.write_bytes(answer.content)


@billing.command("months")
def months(
    account: Annotated[str | None, typer.Argument(help="The billing account's id")] = None,
    project: Annotated[str | None, typer.Option("--project", help="A project's own part instead")] = None,
    as_json: JsonOption = False,
) -> None:
    """The months in which there is something to pay for, or was used, the newest first."""
    show(Api().call("GET", _invoices(account, project), project=project).json(), as_json)


def _invoices(account: str | None, project: str | None) -> str:
    if (account is None) == (project is None):
        raise OperatorError("Name a billing account, or a --project")
    return "/v1/invoices" if account is None else f"/v1/admin/billing-accounts/{account}/invoices"


def _some_limits(requests: int | None, burst: int | None, ceiling: str | None) -> dict[str, Any]:
    asked = {"requests_per_minute": requests, "burst": burst, "cost_ceiling": ceiling}
    return {name: value for name, value in asked.items() if value is not None}


def _set_limits(project: str, some: dict[str, Any], end: bool, reason: str, as_json: bool, *, is_shadow: bool) -> None:
    if bool(some) == end:
        raise OperatorError("Name the limits (--requests, --burst, --ceiling), or --end and none of them")
    body = some | {"is_shadow": is_shadow, "reason": reason}
    show(Api().call("PUT", f"/v1/admin/projects/{project}/limits", body).json(), as_json)


AuditedProject = Annotated[str | None, typer.Argument(metavar="[PROJECT]", help="Its id; without it, all projects")]
SinceOption = Annotated[str | None, typer.Option("--from", help="RFC 3339 with a zone; 30 days ago")]
UntilOption = Annotated[str | None, typer.Option("--to", help="RFC 3339 with a zone, exclusive; now")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Lines at most")]
CursorOption = Annotated[str | None, typer.Option("--cursor", help="Go on where a page ended: its next_cursor")]


@audit.command("list")
def list_audit(
    project: AuditedProject = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="refusals, shadow, limits, prices, grants, projects, keys, billing or recharge"),
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = 100,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """What was refused and what was done, the newest first; `list` need not be said. `explain ENTRY_ID` says more."""
    asked: dict[str, Any] = {
        "project": project,
        "kind": kind,
        "from": since,
        "to": until,
        "limit": limit,
        "cursor": cursor,
    }
    page = Api().call("GET", "/v1/audit", **asked).json()
    columns = ("at", "entry_id", "project", "actor", "action", "code", "detail")
    _show_page(page, page["entries"], columns, as_json)


@audit.command("keys")
def audit_keys(
    project: AuditedProject = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = 100,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """What each key was used for, by the hour, the newest hour first."""
    asked: dict[str, Any] = {"project": project, "from": since, "to": until, "limit": limit, "cursor": cursor}
    page = Api().call("GET", "/v1/audit/keys", **asked).json()
    columns = ("hour", "project", "key_id", "environment", "operation", "uses", "refused", "first_at", "last_at")
    _show_page(page, page["rows"], columns, as_json)


def _show_page(page: Any, rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    """As JSON, or as columns under their names."""
    if as_json:
        show(page, as_json)
        return
    lines = [
        columns,
        *(tuple(str(row[name]) if row[name] not in ("", None) else "-" for name in columns) for row in rows),
    ]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if page["next_cursor"]:
        print(f"there is more: --cursor {page['next_cursor']}", file=sys.stderr)


def read_json(file: Path) -> Any:
    """What a file says. Raises OperatorError."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OperatorError(f"{file} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise OperatorError(f"{file} is no JSON: {error}") from None


def problem_text(problem: dict[str, Any]) -> str:
    """A problem as one line: its code, what it says, and which field it is about."""
    where = f" ({problem['field']})" if problem.get("field") else ""
    return f"{problem.get('code', problem.get('status'))}: {problem['detail']}{where}"


def _problem(response: httpx.Response) -> str:
    try:
        return problem_text(response.json())
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code}: {response.text[:500]}"


def _lines(value: Any, indent: str) -> list[str]:
    if isinstance(value, list):
        lines = []
        for each in value:
            inner = _lines(each, indent + "  ")
            lines += [f"{indent}- {inner[0].lstrip()}", *inner[1:]] if inner else []
        return lines or [f"{indent}(none)"]
    if not isinstance(value, dict):
        return [f"{indent}{'-' if value is None else value}"]
    lines = []
    for name, each in value.items():
        if isinstance(each, dict | list) and each:
            lines += [f"{indent}{name}:", *_lines(each, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {'-' if each in (None, [], {}, '') else each}")
    return lines
