"""The table of the pages that a browser walks. A page that a route has and this table lacks is a failure.

Whoever adds a view adds its pages here: an address as a reader would have it, who looks, and what must be on the page.
Names of the story stand in braces, as in "/dashboard/holds?project={project}"; see `Story`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from fastapi.routing import APIRoute

from api.dashboard.routes import ROUTERS

PREFIX = "/dashboard"
# By a key of the project or its preview, as an admin, or by a portal link to a project, or to one customer of it.
Who = Literal["nobody", "key", "preview", "admin", "portal", "customer"]


@dataclass(frozen=True, slots=True)
class WalkedPage:
    """A page of the walk: its address, who looks at it, and texts that must be on it, names of the story in braces.

    `route` is the route that answers it, where that has parameters in its path. `parts` are the routes of the parts
    that the page comes with, or asks for by itself. `status` is what the page is answered with, `part_status` what a
    part of it may be, where the page is one that shows what goes wrong.
    """

    path: str
    who: Who
    shows: tuple[str, ...] = ()
    route: str = ""
    parts: tuple[str, ...] = ()
    status: int = 200
    part_status: int = 200

    @property
    def name(self) -> str:
        """The name of the page's test and of its pictures."""
        return f"{self.who}:{self.path.removeprefix(PREFIX) or '/'}"

    @property
    def of_route(self) -> str:
        """The route that answers the page."""
        return self.route or self.path.partition("?")[0]


_ACT = "/dashboard/projects/{project}/acts/{name}"
_WITHDRAWAL = "/dashboard/price-books/{version}/withdrawal"

WALKED: tuple[WalkedPage, ...] = (
    WalkedPage("/dashboard/sign-in", "nobody", ("API key", "Sign in")),
    WalkedPage("/dashboard/sign-in?why=You+were+signed+out.&next=%2Fdashboard", "nobody", ("You were signed out.",)),
    WalkedPage(
        "/dashboard",
        "key",
        ("{project}", "Available credits", "Allowance", "Promotional", "Bundles", "image", "globex"),
        parts=("/dashboard/overview/operations", "/dashboard/overview/customers"),
    ),
    WalkedPage("/dashboard?range=24h", "key", ("image",)),
    WalkedPage("/dashboard", "preview", ("{project}", "preview", "Available credits")),
    WalkedPage("/dashboard", "admin", ("Projects",)),
    WalkedPage("/dashboard?project={project}", "admin", ("{project}", "Available credits")),
    WalkedPage("/dashboard?project={project}&environment=preview", "admin", ("{project}",)),
    WalkedPage("/dashboard?project=nobody-has-this", "admin", ("no project",), status=404),
    WalkedPage("/dashboard/usage", "key", ("image", "credits"), parts=("/dashboard/usage/figures",)),
    WalkedPage("/dashboard/usage", "preview", ("chat.message",)),
    WalkedPage("/dashboard/usage?range=7d&granularity=hour", "key", ("As a line",)),
    WalkedPage(
        "/dashboard/usage?group=customer_id&group2=operation&compare=previous&range=24h",
        "key",
        ("globex", "the time before"),
    ),
    WalkedPage("/dashboard/usage?project={project}&operation=nothing", "admin", ("Nothing was used in this time",)),
    WalkedPage(
        "/dashboard/usage?project={project}&from=2025-01-01&to=2026-01-01&granularity=15m", "admin", ("Ask for less",)
    ),
    WalkedPage("/dashboard/usage?tz=Nowhere", "key", ("No time zone",)),
    WalkedPage("/dashboard/limits", "key", ("Right now", "In force now"), parts=("/dashboard/limits/refusals",)),
    WalkedPage("/dashboard/limits?project={project}", "admin", ("In force now",)),
    WalkedPage(
        "/dashboard/ledger",
        "key",
        ("Entries", "image", "globex", "live"),
        parts=("/dashboard/ledger/rows", "/dashboard/ledger/stream"),
    ),
    WalkedPage("/dashboard/ledger", "preview", ("chat.message",)),
    WalkedPage("/dashboard/ledger?project={project}&operation=image", "admin", ("image",)),
    WalkedPage("/dashboard/ledger?project={project}&operation=nothing", "admin", ("No entry is like this",)),
    WalkedPage("/dashboard/ledger?kind=nonsense", "key", ("kind",), part_status=422),
    WalkedPage("/dashboard/receipts/{entry_id}", "key", ("image", "globex"), route="/dashboard/receipts/{id}"),
    WalkedPage("/dashboard/receipts/{request_id}", "key", ("{request_id}",), route="/dashboard/receipts/{id}"),
    WalkedPage("/dashboard/receipts/{refused_request_id}", "key", ("402",), route="/dashboard/receipts/{id}"),
    WalkedPage("/dashboard/receipts/nothing-0", "key", route="/dashboard/receipts/{id}", status=404),
    WalkedPage("/dashboard/holds", "key", ("job-open", "job-waiting"), parts=("/dashboard/holds/settled",)),
    WalkedPage("/dashboard/holds?job=no-such-job", "key"),
    WalkedPage("/dashboard/holds?state=released&customer_id={customer}", "key", ("job-released", "Given back")),
    WalkedPage("/dashboard/holds?project={project}&state=expired", "admin", ("No settled hold is like this",)),
    WalkedPage("/dashboard/holds/{hold_id}", "key", ("job-open", "60"), parts=("/dashboard/holds/{hold_id}/story",)),
    WalkedPage("/dashboard/alerts", "key", parts=("/dashboard/alerts/notices",)),
    WalkedPage("/dashboard/alerts", "preview"),
    WalkedPage("/dashboard/alerts?project={project}", "admin"),
    WalkedPage("/dashboard/webhooks", "key", ("127.0.0.1",), parts=("/dashboard/webhooks/cards",)),
    WalkedPage("/dashboard/webhooks?project={project}", "admin", ("127.0.0.1",)),
    WalkedPage("/dashboard/webhooks", "admin"),
    WalkedPage(
        "/dashboard/webhooks/{endpoint_id}",
        "key",
        ("{endpoint_id}",),
        parts=("/dashboard/webhooks/{endpoint_id}/health", "/dashboard/webhooks/{endpoint_id}/attempts"),
    ),
    WalkedPage("/dashboard/webhooks/{failing_endpoint_id}", "key", ("500",), route="/dashboard/webhooks/{endpoint_id}"),
    WalkedPage("/dashboard/prices", "key", ("image", "{price_version}"), parts=("/dashboard/prices/cost",)),
    WalkedPage("/dashboard/prices?operation=image&quantity=5", "key", ("160",)),
    WalkedPage("/dashboard/prices", "admin", ("image",)),
    WalkedPage("/dashboard/invoices?project={project}", "admin", parts=("/dashboard/invoices/months",)),
    WalkedPage("/dashboard/invoices", "key", ("Invoices",)),
    WalkedPage("/dashboard/invoices?billing_account={billing_account}", "admin"),
    WalkedPage("/dashboard/invoices/{month}?billing_account={billing_account}", "admin", ("{project}",)),
    WalkedPage("/dashboard/projects", "admin", ("acme",)),
    WalkedPage("/dashboard/projects?search=no-such-project", "admin"),
    WalkedPage("/dashboard/new-project", "admin"),
    WalkedPage(
        "/dashboard/projects/{project}",
        "admin",
        ("{project}", "{billing_account}"),
        parts=("/dashboard/projects/{project}/parts/keys", "/dashboard/projects/{project}/parts/past"),
    ),
    *(
        WalkedPage(f"/dashboard/projects/{{project}}/acts/{act}", "admin", route=_ACT)
        for act in ("plan", "limits", "grant", "key", "erasure")
    ),
    WalkedPage("/dashboard/price-books", "admin", ("{price_version}",)),
    WalkedPage("/dashboard/price-books/announce", "admin"),
    WalkedPage("/dashboard/price-books/{price_version}/withdrawal", "admin", route=_WITHDRAWAL),
    WalkedPage("/dashboard/limit-rehearsal", "admin"),
    WalkedPage("/dashboard/events", "admin"),
    WalkedPage("/dashboard/events?source={source}&id={event_id}", "admin", ("{event_id}",)),
    WalkedPage("/dashboard/dead-letters", "admin", ("Producer", "Project")),
    WalkedPage("/dashboard/dead-letters?source=nobody&subject=no-project", "admin", ("No dead letter fits",)),
    WalkedPage("/dashboard/dead-letters/{dead_letter_id}", "admin"),
    WalkedPage("/dashboard/audit?project={project}", "admin", ("limit",)),
    WalkedPage("/dashboard/audit/keys?project={project}", "admin"),
    WalkedPage("/dashboard/billing", "admin", ("{billing_account}",)),
    WalkedPage("/dashboard/new-billing-account", "admin"),
    WalkedPage(
        "/dashboard/billing/{billing_account}",
        "admin",
        ("{project}",),
        parts=("/dashboard/billing/{billing_account}/parts/invoices",),
    ),
    WalkedPage("/dashboard/billing/{billing_account}/terms", "admin"),
    WalkedPage("/dashboard/system", "admin", parts=("/dashboard/system/endpoints",)),
    WalkedPage("/dashboard/portal", "nobody", ("open the link that you were given",)),
    WalkedPage("/dashboard", "portal", ("{project}",)),
    WalkedPage("/dashboard", "customer", ("globex", "image", "chat.message")),
    WalkedPage("/dashboard/ledger", "customer", ("image",)),
    WalkedPage("/dashboard/alerts", "customer", status=403),
    WalkedPage("/dashboard/no-such-page", "key", ("no page",), route="/dashboard/{path:path}", status=404),
)

# Routes that answer with no page: each with the test that looks at what they give.
NO_PAGES: dict[str, str] = {
    "/dashboard/static/{asked}/{name:path}": "tests/dashboard/test_vendored.py",
    "/dashboard/limit-rehearsal/run": "tests/dashboard/test_limit_rehearsal.py",
    "/dashboard/system/now": "tests/dashboard/test_system.py",
    "/dashboard/projects/{project}/erasures/{entry_id}": "tests/dashboard/test_acts.py",
    "/dashboard/billing/{billing_account}/invoices/{month}": "tests/dashboard/test_billing.py",
    "/dashboard/overview/now": "tests/dashboard/test_overview.py",
    "/dashboard/limits/standing": "tests/dashboard/test_limits.py",
    "/dashboard/usage.csv": "tests/dashboard/test_usage.py",
    "/dashboard/brand/{name}": "tests/dashboard/test_portals.py",
    "/dashboard/invoices/{month}/csv": "tests/dashboard/test_invoice_files.py",
    "/dashboard/invoices/{month}/page": "tests/dashboard/test_invoice_files.py",
}


def get_routes() -> set[str]:
    """The paths of the dashboard's routes that are asked with GET."""
    return {
        PREFIX + route.path
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and "GET" in (route.methods or ())
    }


def unwalked(pages: tuple[WalkedPage, ...], others: dict[str, str], routes: set[str]) -> list[str]:
    """The faults of a table of pages: routes that nobody looks at, and pages of no route."""
    walked = {each.of_route for each in pages} | {part for each in pages for part in each.parts}
    complaints = [f"{route} is walked by nobody: add a page of it" for route in routes - walked - set(others)]
    complaints += [f"{route} is in the table, and no route" for route in (walked | set(others)) - routes]
    complaints += [
        f"{page.name} is for {page.who}, who is nobody known" for page in pages if page.who not in get_args(Who)
    ]
    return sorted(complaints)


def is_of(route: str, path: str) -> bool:
    """Whether a route answers a path."""
    pattern = re.sub(r"\\\{\w+:path\\\}", ".+", re.escape(route))
    return re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", pattern), path) is not None
