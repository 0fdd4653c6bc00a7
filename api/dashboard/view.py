"""A view: a request of somebody who has signed in, with what a page needs to answer it."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from clickhouse_connect.driver.exceptions import OperationalError
from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from markupsafe import Markup
from starlette.responses import Response

from api.callers.portals import is_shown
from api.callers.roles import MAY
from api.dashboard import pages
from api.dashboard.asking import ApiAnswer, OwnApi, ShownProblem
from api.dashboard.figures import shown_time
from api.dashboard.navigation import is_page_of_portal, pages_of_portal, places_for
from api.dashboard.sessions import Session, Sessions, caller_of_session, is_loopback, session_of
from api.dashboard.static_files import PREFIX as STATIC
from api.dependencies import ServicesDep
from api.errors import problem_of_failure, problem_of_rejection, request_id_of
from api.services import Services
from schemas.events import PROJECT_ID_PATTERN
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouseError
from streams.http_answers import response_of

# Where a session's cookie is looked for, and what is refused is told by a page.
DASHBOARD = "/dashboard"
SIGN_IN = "/dashboard/sign-in"
PORTAL = "/dashboard/portal"
# As much as the longest field of a form, a price book of 60,000 characters, where each is nine bytes in its coding.
FORM_BYTES_MAX = 640 * 1024
# The longest address to which somebody is led back after signing in.
NEXT_CHARS_MAX = 2000
# The API lets a question wait for some seconds (api/reads.py) before it is refused.
_TURNS_WAITED_MAX = 3
# A page waits so long for its parts: a quick history's figures come with it, and a slow one holds it up no longer.
_PARTS_SECONDS = 0.25


class NotSignedInError(Exception):
    """Nobody is signed in, or no longer; `why` is told on the page for signing in, or, where it was a portal, on the
    page that asks for another link."""

    def __init__(self, why: str = "", *, is_portal: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.is_portal = is_portal


class View:
    """A view asks the API with `get` and `call`, and answers with `page`, or with a `fragment` of one. `project` is the
    project that it is about, None where an admin has named none; `environment` the one that is looked at."""

    def __init__(self, request: Request, services: Services, session: Session) -> None:
        self.request, self.services, self.session = request, services, session
        self.caller = caller_of_session(services, session)
        self.api = OwnApi(request.app, request.scope, self.caller)
        self.query = dict(request.query_params)
        self.is_admin = self.caller.project is None
        named = request.path_params.get("project") or self.query.get("project")
        self.project: str | None = self.caller.project or named or None
        asked = self.query.get("environment", "")
        self.environment = "preview" if "preview" in (asked, self.caller.environment) else "production"
        if self.caller.is_portal:
            self.environment = self.caller.environment

    @property
    def sees_both(self) -> bool:
        """Whether this reader may look at both environments of the project."""
        return self.caller.environment != "preview" and not self.caller.is_portal

    async def get(self, path: str, **query: Any) -> ApiAnswer:
        """Ask the API for what is at a path; about the view's project where an admin asks. A page whose parts ask the
        history all at once waits for its turn, some times longer than another caller would."""
        for _ in range(_TURNS_WAITED_MAX):
            answer = await self.api.get(path, **self._with_project(path, query))
            if answer.problem is None or answer.problem.code != "too_many_queries":
                return answer
        return answer

    async def parts(self, **urls: str) -> SimpleNamespace:
        """The parts of a page that the page would load by itself, each a `PagePart` by its name: as it is, if it is
        there soon enough for the page to come with it."""
        # No dict: a template would take its `keys` for a part.
        return SimpleNamespace(**await self.api.parts(urls, _PARTS_SECONDS))

    async def call(self, method: str, path: str, body: Any = None, key: str = "", **query: Any) -> ApiAnswer:
        """Make a call of the API that may change something."""
        return await self.api.call(method, path, self._with_project(path, query), body, key)

    def passed_on(self, path: str, accept: str, **query: Any) -> Response:
        """Answer with the API's own answer: a file, as it comes; what is refused is told by a page."""
        return self.api.passed_on(path, self._with_project(path, query), accept, partial(problem_page, self.request))

    def _with_project(self, path: str, query: dict[str, Any]) -> dict[str, Any]:
        is_named = not self.is_admin or not self.project or path.startswith("/v1/admin/") or "project" in query
        return query if is_named or path.startswith("/v1/prices") else query | {"project": self.project}

    def may(self, operation: str, scope: str = "") -> bool:
        """Whether this reader may make a call, as in "PUT /v1/admin/projects/{project}/plan": what an admin's role
        says, or, of a project's key, whether it has the scope. The call itself asks again."""
        role = self.caller.role
        if self.caller.is_portal:
            return is_shown(self.caller, operation)
        if role is not None:
            return role in MAY.get(operation, ())
        return "/v1/admin/" not in operation and (not scope or self.caller.has(scope))

    def url(self, path: str | None = None, **changes: Any) -> str:
        """The address of a page: this one's, with parameters changed, or another's, about the same project and
        environment. None takes a parameter out."""
        kept = self.query if path is None else {}
        names_project = "project" in self.request.path_params and path in (None, self.request.url.path)
        about = {
            "project": self.project if self.is_admin and not names_project else None,
            "environment": self.environment if self.environment != self.caller.environment else None,
        }
        asked = {name: str(value) for name, value in (kept | about | changes).items() if value not in (None, "")}
        return quote(path or self.request.url.path) + (f"?{urlencode(asked)}" if asked else "")

    def page(
        self, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **context: Any
    ) -> Response:
        """Answer with a page: a template that extends base.html."""
        return pages.html(self.request, pages.rendered(template, self._shared() | context), status, headers)

    fragment = page

    def rendered(self, template: str, **context: Any) -> str:
        """A template's text, for a stream."""
        return pages.rendered(template, self._shared() | context)

    def error(self, problem: ShownProblem) -> Response:
        """Answer with the problem: within a page, or as the fragment that a page asked for."""
        template = "partials/problem.html" if "hx-request" in self.request.headers else "error.html"
        return self.page(template, status=problem.status, problem=problem)

    def led_to(self, url: str) -> Response:
        """Lead to another page, as after a form that was sent."""
        return Response(None, 303, pages.HEADERS | {"location": url})

    def token(self) -> str:
        """A token for a form."""
        return sessions_of(self.request).form_token(self.session)

    async def form(self) -> dict[str, str]:
        """The form that was sent, checked to come from one of this session's pages: the last value of each name. Raises
        Rejection `forged_form` for one that does not."""
        check_same_origin(self.request)
        fields = await form_of(self.request)
        if not sessions_of(self.request).is_form_token(self.session, fields.pop("csrf", "")):
            raise Rejection("forged_form", "This form is not from a page of this session")
        return fields

    def _shared(self) -> dict[str, Any]:
        zone = self.session.tz

        def when(value: Any, how: str = "minute") -> Markup:
            return shown_time(value, zone, how)

        return {
            "view": self,
            "places": places_for(
                is_admin=self.is_admin,
                has_project=self.project is not None,
                shown=pages_of_portal(self.caller) if self.caller.is_portal else None,
            ),
            "when": when,
        }


async def _view(request: Request, services: ServicesDep) -> View:
    session = session_of(request.scope)
    if session is None:
        raise NotSignedInError
    try:
        view = View(request, services, session)
    except Rejection as rejection:
        if rejection.code == "not_ready":
            raise
        is_portal = session.portal is not None
        raise NotSignedInError(f"You were signed out: {rejection.detail}.", is_portal=is_portal) from None
    if view.caller.is_portal and not is_page_of_portal(view.caller, request.method, request.url.path):
        raise Rejection("not_in_portal", "A portal does not show this page")
    if view.project is not None and not _is_project(view.project):
        raise Rejection("unknown_project", f"There is no project {view.project[:64]!r}", "project")
    return view


# A view for whoever has signed in; whoever has not is led to the page for that.
ViewDep = Annotated[View, Depends(_view)]


async def _project_view(view: ViewDep) -> View:
    if view.project is None:
        raise Rejection("invalid_request", "An admin names the project to look at: choose one of Projects", "project")
    return view


# A view about one project.
ProjectViewDep = Annotated[View, Depends(_project_view)]


async def _admin_view(view: ViewDep) -> View:
    if not view.is_admin:
        raise Rejection("missing_scope", "This page is for admins")
    return view


# A view for an admin.
AdminViewDep = Annotated[View, Depends(_admin_view)]


class PageRoute(APIRoute):
    """A PageRoute answers what goes wrong with a page that tells it, and leads whoever has not signed in there."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that FastAPI's router calls."""
        handler = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handler(request)
            except NotSignedInError as error:
                return to_sign_in(request, error.why, PORTAL if error.is_portal else SIGN_IN)
            except Rejection as rejection:
                return problem_page(request, problem_of_rejection(request_id_of(request), rejection))
            except RequestValidationError as error:
                first = error.errors()[0]
                wrong = Rejection("invalid_request", f"`{first['loc'][-1]}`: {first['msg']}", str(first["loc"][-1]))
                return problem_page(request, problem_of_rejection(request_id_of(request), wrong))
            except (ClickHouseError, OperationalError):
                away = Rejection("history_unavailable", "The history in ClickHouse can't be asked now")
                return problem_page(request, problem_of_rejection(request_id_of(request), away))
            except Exception as error:
                return problem_page(request, problem_of_failure(request_id_of(request), error))

        return answered


def answer_with_problem(request: Request, problem: dict[str, Any]) -> Response:
    """The answer with a problem: a page below the dashboard, but for its files; else JSON."""
    path = request.scope["path"]
    is_page = is_below(DASHBOARD, path) and not is_below(STATIC, path)
    return problem_page(request, problem) if is_page else response_of(problem)


def problem_page(request: Request, problem: Mapping[str, Any]) -> Response:
    """A page that tells a problem, or, where a page asked for a part of itself, that part."""
    told = ShownProblem(
        problem["status"], problem["code"], problem["title"], problem["detail"], problem.get("field") or "",
        problem.get("instance", ""),
    )  # fmt: skip
    is_part = "hx-request" in request.headers
    context: dict[str, Any] = {"problem": told, "view": None, "places": []}
    session = session_of(request.scope)
    # Before the services have started nobody can be looked up.
    services = getattr(request.app.state, "services", None)
    if session is not None and services is not None and not is_part:
        try:
            view = View(request, services, session)
            if view.project is None or _is_project(view.project):
                context |= view._shared()
        except Rejection:
            pass
    template = "partials/problem.html" if is_part else "error.html"
    return pages.html(request, pages.rendered(template, context), told.status)


def to_sign_in(request: Request, why: str = "", page_path: str = SIGN_IN) -> Response:
    """Lead to the page for signing in, and from there back here; or to that of portals."""
    asked = {"next": _page_seen(request) if page_path == SIGN_IN else "", "why": why}
    given = urlencode({name: value for name, value in asked.items() if value})
    there = page_path + (f"?{given}" if given else "")
    if "hx-request" in request.headers:
        return Response(None, 200, pages.HEADERS | {"hx-redirect": there})
    return Response(None, 303, pages.HEADERS | {"location": there})


def _page_seen(request: Request) -> str:
    """The address of the page that the reader of an answer looks at: of a part of a page the whole, of a form the page
    that has it, whose own address may have nothing to show. "" where that is not known."""
    if "hx-request" in request.headers:
        page = _read_url(request.headers.get("hx-current-url", ""))
    elif request.method in ("GET", "HEAD"):
        page = SplitResult("", "", quote(request.scope["path"]), request.url.query, "")
    else:
        page = _read_url(request.headers.get("referer", ""))
        if page.netloc != request.headers.get("host", ""):
            return ""
    whole = f"{page.path}?{page.query}".rstrip("?")
    # One that is too long leads to its page at least.
    return whole if len(whole) <= NEXT_CHARS_MAX else page.path[:NEXT_CHARS_MAX]


def _read_url(text: str) -> SplitResult:
    """The parts of a URL that a browser told; none where it is no URL."""
    try:
        return urlsplit(text)
    except ValueError:
        return urlsplit("")


def sessions_of(request: Request) -> Sessions:
    """The sessions of this process."""
    sessions: Sessions = request.app.state.sessions
    return sessions


def is_below(folder: str, path: str) -> bool:
    """Whether a path is a folder's own, or of something in it."""
    return path == folder or path.startswith(f"{folder}/")


def is_own_page(path: str) -> bool:
    """Whether a path is one of the dashboard's pages, to which a reader may be sent on, and can be told in a header."""
    return (
        (path == "/dashboard" or path.startswith(("/dashboard/", "/dashboard?")))
        and "\\" not in path
        and "//" not in path
        and path.isascii()
        and path.isprintable()
    )


def check_same_origin(request: Request) -> None:
    """Check that a form came from a page of this origin, as the browser tells it. Raises Rejection `forged_form`."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    host = request.headers.get("host", "")
    if site not in (None, "same-origin") or (origin is not None and _read_url(origin).netloc != host):
        raise Rejection("forged_form", "This form came from another site's page")


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form, the last value of each name. Raises Rejection where it is too large, or of another type."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind != "application/x-www-form-urlencoded":
        raise Rejection("unsupported_media_type", "A form is sent as application/x-www-form-urlencoded")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > FORM_BYTES_MAX:
            raise Rejection("body_too_large", f"A form has at most {FORM_BYTES_MAX} bytes")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=500, errors="strict"))
    except ValueError:
        raise Rejection("invalid_request", "The form can't be read: it is no URL-encoded UTF-8") from None


def is_secure(request: Request) -> bool:
    """Whether the browser is to send the cookie over TLS alone: everywhere but on the machine itself."""
    return not is_loopback(request.headers.get("host", ""))


def _is_project(name: str) -> bool:
    return re.fullmatch(PROJECT_ID_PATTERN, name) is not None
