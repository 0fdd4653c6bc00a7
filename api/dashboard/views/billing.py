"""Billing accounts for admins: those there are, opening one, and one with its projects and invoices."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.dashboard.acts import BILLING, CHANGE_BILLING_ACCOUNT, OPEN_BILLING_ACCOUNT
from api.dashboard.asking import ApiAnswer, api_path
from api.dashboard.doing import ActPage
from api.dashboard.view import AdminViewDep, PageRoute, View
from schemas.problems import Rejection

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_PLACE = "/dashboard/billing"
_PAGE = 50
_FILES = {"html": "text/html", "csv": "text/csv"}


@router.get("/billing")
async def billing_accounts(view: AdminViewDep) -> Response:
    """List billing accounts, by id."""
    found = await view.get(BILLING, limit=_PAGE, cursor=view.query.get("cursor"))
    if found.problem is not None:
        return view.error(found.problem)
    return view.page("billing.html", found=found.data, may_open=view.may(OPEN_BILLING_ACCOUNT.operation))


@router.get("/new-billing-account")
async def new_billing_account(view: AdminViewDep) -> Response:
    """Show the form for a new billing account."""
    return await _new_page(view).form()


@router.post("/new-billing-account")
async def open_billing_account(view: AdminViewDep) -> Response:
    """Open a billing account, and lead to it."""
    opened = await _new_page(view).done(await view.form())
    return view.led_to(f"{_PLACE}/{opened.data['id']}?done=opened") if isinstance(opened, ApiAnswer) else opened


@router.get("/billing/{billing_account}")
async def billing_account_page(view: AdminViewDep, billing_account: str) -> Response:
    """Show a billing account: its terms, the projects on its invoice, and its invoices."""
    here = api_path(f"{BILLING}/{{id}}", id=billing_account)
    account = await view.get(here, limit=_PAGE, cursor=view.query.get("cursor"))
    if account.problem is not None:
        return view.error(account.problem)
    return view.page(
        "billing_account.html",
        account=account.data,
        parts=await view.parts(invoices=api_path(f"{_PLACE}/{{id}}/parts/invoices", id=billing_account)),
        may_change=view.may(CHANGE_BILLING_ACCOUNT.operation),
        done=view.query.get("done"),
    )


@router.get("/billing/{billing_account}/parts/invoices")
async def invoices(view: AdminViewDep, billing_account: str) -> Response:
    """Give the part of the page with the invoices of a billing account."""
    path = api_path(f"{BILLING}/{{id}}/invoices", id=billing_account)
    found = await view.get(path, limit=24, cursor=view.query.get("month"))
    if found.problem is not None:
        return view.error(found.problem)
    return view.fragment("partials/billing_invoices.html", found=found.data, account=billing_account)


@router.get("/billing/{billing_account}/invoices/{month}")
async def invoice(view: AdminViewDep, billing_account: str, month: str) -> Response:
    """Give an invoice as a page to print, or as CSV, as the API makes it."""
    media_type = _FILES.get(form := view.query.get("format", "html"))
    if media_type is None:
        raise Rejection("invalid_request", "An invoice is there as html or csv", "format")
    path = api_path(f"{BILLING}/{{id}}/invoices/{{month}}", id=billing_account, month=month)
    return view.passed_on(path, media_type, format=form)


@router.get("/billing/{billing_account}/terms")
async def terms(view: AdminViewDep, billing_account: str) -> Response:
    """Show the form for a billing account's name and address."""
    return await _terms_page(view, billing_account).form()


@router.post("/billing/{billing_account}/terms")
async def change_terms(view: AdminViewDep, billing_account: str) -> Response:
    """Change a billing account's name and address."""
    page, given = _terms_page(view, billing_account), await view.form()
    changed = await page.done(given)
    return page.led_back() if isinstance(changed, ApiAnswer) else changed


def _new_page(view: View) -> ActPage:
    return ActPage(view, OPEN_BILLING_ACCOUNT, {}, _PLACE, "Billing accounts")


def _terms_page(view: View, account: str) -> ActPage:
    back = f"{_PLACE}/{account}"
    return ActPage(view, CHANGE_BILLING_ACCOUNT, {"billing_account": account}, back, account)
