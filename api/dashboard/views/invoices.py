"""Invoices: the months of a project, or, for admins, of a billing account; and one month as it is billed."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from api.dashboard.asking import api_path
from api.dashboard.view import PageRoute, View, ViewDep
from schemas.http.invoices import BILLING_ACCOUNT_ID_PATTERN, MONTH_PATTERN
from schemas.problems import Rejection

router = APIRouter(prefix="/invoices", include_in_schema=False, route_class=PageRoute)

_MONTHS: Final = 24
_LINES_SHOWN: Final = 500
MonthPath = Annotated[str, Path(pattern=MONTH_PATTERN)]
AccountQuery = Annotated[str | None, Query(pattern=BILLING_ACCOUNT_ID_PATTERN)]


@router.get("")
async def invoices(
    view: ViewDep,
    billing_account: AccountQuery = None,
    cursor: Annotated[str | None, Query(pattern=MONTH_PATTERN)] = None,
) -> Response:
    """Show the months that have an invoice, the open month first."""
    base = _base(view, billing_account)
    listed = view.url("/dashboard/invoices/months", billing_account=billing_account, cursor=cursor)
    parts = await view.parts(months=listed)
    return view.page("invoices.html", billing_account=billing_account, parts=parts, base=base)


@router.get("/months")
async def months(
    view: ViewDep,
    billing_account: AccountQuery = None,
    cursor: Annotated[str | None, Query(pattern=MONTH_PATTERN)] = None,
) -> Response:
    """Answer with the part of the page that lists the months."""
    asked = await view.get(_base(view, billing_account), limit=_MONTHS, cursor=cursor)
    if asked.problem is not None:
        return view.error(asked.problem)
    return view.fragment(
        "partials/invoices_months.html",
        invoices=asked.data["invoices"],
        next_cursor=asked.data["next_cursor"],
        billing_account=billing_account,
        cursor=cursor,
    )


@router.get("/{month}")
async def invoice(view: ViewDep, month: MonthPath, billing_account: AccountQuery = None) -> Response:
    """Show one month: its lines, taxes and totals."""
    asked = await view.get(api_path(_base(view, billing_account) + "/{month}", month=month))
    if asked.problem is not None:
        return view.error(asked.problem)
    return view.page(
        "invoice.html",
        invoice=asked.data,
        billing_account=billing_account,
        month=month,
        lines_shown=_LINES_SHOWN,
        lines=sum(len(each["lines"]) for each in asked.data["projects"]),
    )


@router.get("/{month}/page")
async def to_print(view: ViewDep, month: MonthPath, billing_account: AccountQuery = None) -> Response:
    """Pass on the invoice as the page that the API makes of it for print."""
    return view.passed_on(api_path(_base(view, billing_account) + "/{month}", month=month), "text/html")


@router.get("/{month}/csv")
async def as_csv(view: ViewDep, month: MonthPath, billing_account: AccountQuery = None) -> Response:
    """Pass on the invoice as CSV."""
    return view.passed_on(api_path(_base(view, billing_account) + "/{month}", month=month), "text/csv")


def _base(view: View, billing_account: str | None) -> str:
    """The path of the invoices that the view is about. Raises Rejection where it is about none."""
    if billing_account is not None:
        if not view.is_admin:
            raise Rejection("missing_scope", "A billing account's invoices are for admins")
        return api_path("/v1/admin/billing-accounts/{account}/invoices", account=billing_account)
    if view.project is None:
        raise Rejection("invalid_request", "Name a project, or a billing account", "project")
    return "/v1/invoices"
