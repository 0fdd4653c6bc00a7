"""Signing in with a key, once, and out again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.dashboard import pages
from api.dashboard.sessions import COOKIE, SECURE_COOKIE, SESSION_SECONDS_MAX, Session
from api.dashboard.view import (
    NEXT_CHARS_MAX,
    PORTAL,
    SIGN_IN,
    PageRoute,
    ViewDep,
    check_same_origin,
    form_of,
    is_own_page,
    is_secure,
    sessions_of,
)
from api.dependencies import ServicesDep, caller_with
from schemas.problems import Rejection

router = APIRouter(include_in_schema=False, route_class=PageRoute)

_PATH = SIGN_IN.removeprefix("/dashboard")


@router.get(_PATH)
async def sign_in_page(
    request: Request,
    next: Annotated[str, Query(max_length=NEXT_CHARS_MAX)] = "",
    why: Annotated[str, Query(max_length=300)] = "",
) -> Response:
    """Show the form for a key."""
    return _form(request, next, why)


@router.post(_PATH)
async def sign_in(request: Request, services: ServicesDep) -> Response:
    """Begin a session for a key, which the browser sends once and nobody keeps."""
    check_same_origin(request)
    fields = await form_of(request)
    key, next = fields.get("key", "").strip(), fields.get("next", "")
    try:
        if not key:
            raise Rejection("unauthenticated", "There is no key")
        caller, _ = caller_with(services, key)
    except Rejection as rejection:
        return _form(request, next, "", f"{rejection.detail}.", rejection.status)
    session = sessions_of(request).begin(caller, fields.get("zone", ""))
    response = Response(None, 303, pages.HEADERS | {"location": next if is_own_page(next) else "/dashboard"})
    keep_session(request, response, session)
    return response


@router.post("/sign-out")
async def sign_out(view: ViewDep) -> Response:
    """End the session: in this browser, and of every copy of its cookie."""
    await view.form()
    sessions_of(view.request).sign_out(view.session)
    there = SIGN_IN if view.session.portal is None else PORTAL
    response = Response(None, 303, pages.HEADERS | {"location": there, "clear-site-data": '"cache", "storage"'})
    response.delete_cookie(_cookie_name(view.request), "/", secure=is_secure(view.request), httponly=True)
    return response


def keep_session(request: Request, response: Response, session: Session) -> None:
    """Have the browser keep a session, in the place of any that it had."""
    response.set_cookie(
        _cookie_name(request),
        sessions_of(request).sealed(session),
        max_age=SESSION_SECONDS_MAX,
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="strict",
    )


def _cookie_name(request: Request) -> str:
    return SECURE_COOKIE if is_secure(request) else COOKIE


def _form(request: Request, next: str, why: str, wrong: str = "", status: int = 200) -> Response:
    context = {
        "next": next if is_own_page(next) else "",
        "why": why,
        "wrong": wrong,
        "is_insecure": is_secure(request) and request.url.scheme == "http",
        "view": None,
        "places": [],
    }
    return pages.html(request, pages.rendered("sign_in.html", context), status)
