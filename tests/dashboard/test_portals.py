"""Portals: a link opens once, in time and by a button, and shows its customer that customer alone; sessions are nobody
else's."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import sync_playwright

from api.app import create_app
from api.callers.keys import new_admin_key
from api.callers.links import PortalLink, PortalLinks
from api.callers.portals import OF_CUSTOMER, OF_PROJECT, portal_caller
from api.dashboard.asking import OwnApi, api_path
from api.dashboard.brand import Brand
from api.dashboard.sessions import Session, Sessions
from api.stack import Stack
from schemas.accounts import Account
from streams.embedded import lifeline
from streams.errors import OperatorError
from streams.kafka.clock import now_ms
from streams.settings import Settings
from tests.admins import ADMIN_KEYS
from tests.api.isolation import CALLS, OPEN, PATHS, filled
from tests.api.test_isolation import Belongings, belongings_in
from tests.calls import Operator, eventually
from tests.dashboard.pages import text_of
from tests.dashboard.portal_calls import (
    PORTAL,
    another_api,
    browser,
    csrf_of,
    elsewhere,
    link_url,
    minutes_ago,
    opened,
    press,
    refused,
    remade,
    token_of,
    two_customers,
    use,
)

STREAM = "GET /v1/ledger/stream"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def test_a_link_is_opened_by_its_button_alone_and_shows_its_customer_that_customer_alone(operator: Operator) -> None:
    project, client, mine, other = two_customers(operator)
    token = token_of(link_url(client, customer_id=mine))
    reader = browser(operator.url)
    for _ in range(3):  # a previewer of links, a scanner of mails
        page = reader.get(PORTAL, params={"token": token})
        assert page.status_code == 200 and "<button" in page.text and not reader.cookies
        assert (page.headers["referrer-policy"], page.headers["cache-control"]) == ("no-referrer", "no-store")
    answer = press(reader, token)
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard")
    cookie = answer.headers["set-cookie"].lower()
    assert all(flag in cookie for flag in ("httponly", "samesite=strict", "path=/", "max-age=43200"))
    overview = reader.get("/dashboard").text
    assert mine in overview and "image" in overview and "website" not in overview
    balance = client.get("/v1/balance").json()["available"]
    rows = "/dashboard/ledger/rows"
    for path, query in (
        ("/dashboard", {}),
        ("/dashboard/ledger", {}),
        (rows, {}),
        (rows, {"customer_id": other}),
        (rows, {"customer_id": "", "project": operator.project()}),
    ):
        shown = reader.get(path, params=query)
        # What the reader asked for is in the address at which the page goes on.
        text = re.sub(r"<i></i>", "", shown.text).replace(f"customer_id={other}", "")
        assert shown.status_code == 200 and not [each for each in (other, balance, "website<") if each in text], path
    assert "Image" in reader.get(rows, params={"customer_id": other}).text.title()
    for path in ("", "/1", "/projects", "/alerts", "/holds", "/limits", "/webhooks", "/audit", "/receipts/0-1-0"):
        hidden = reader.get(f"/dashboard{path or '/prices'}")
        assert hidden.status_code == 403 and "Not in this portal" in hidden.text, path
    preview = reader.get("/dashboard", params={"environment": "preview"})
    assert preview.status_code == 200 and "production" in preview.text


@pytest.mark.parametrize("asked", [{"customer_id": "mine"}, {}, {"environment": "preview"}], ids=str)
def test_a_portal_offers_no_way_to_what_it_does_not_show(operator: Operator, asked: dict[str, str]) -> None:
    project, client, mine, _ = two_customers(operator)
    if "customer_id" in asked:
        asked = {"customer_id": mine}
    if "environment" in asked:
        top_up = {"bundle_usd": 20, "environment": "preview"}
        operator.http.post(f"/v1/admin/projects/{project}/top-ups", json=top_up).raise_for_status()
        use(operator.client(operator.key(project, "preview")["key"]), mine)
    reader = opened(operator.url, token_of(link_url(client, **asked)))
    eventually(lambda: "entry-" in reader.get("/dashboard/ledger/rows").text)
    waiting, seen = ["/dashboard"], set[tuple[str, ...]]()
    while waiting:
        address = waiting.pop(0)
        # Pages of a kind differ by ids, which are numbers, and by what their parameters say.
        path, _, query = address.partition("?")
        kind = (re.sub(r"\d+", "0", path), *sorted(parse_qs(query)))
        if kind in seen:
            continue
        seen.add(kind)
        answer = reader.get(address)
        assert answer.status_code == 200, (address, answer.text)
        if "text/html" in answer.headers["content-type"]:
            found = re.findall(r'(?:href|hx-get|data-part)="(/dashboard[^"#]*)', answer.text)
            waiting += [unescape(each) for each in found if "/static/" not in each]
    paths = {each[0] for each in seen}
    assert {"/dashboard", "/dashboard/usage.csv", "/dashboard/ledger/rows"} <= paths
    assert ("/dashboard/receipts/0-0-0" in paths) == ("customer_id" not in asked)
    assert ("/dashboard/invoices" in paths) == (asked == {})
    page = reader.get("/dashboard/usage", params={"environment": "all", "group": "environment"}).text
    assert "both" not in text_of(page) and asked.get("environment", "production") in text_of(page)


def test_a_link_opens_once_and_pressing_twice_is_no_failure(operator: Operator) -> None:
    _, client, mine, _ = two_customers(operator)
    token = token_of(link_url(client, customer_id=mine))
    reader = opened(operator.url, token)
    before = dict(reader.cookies)
    assert press(reader, token).status_code == 303 and dict(reader.cookies) == before
    refused(press(browser(operator.url), token), 410, "Portal link used")


def test_twenty_at_once_at_two_apis_begin_one_session(stack: Stack, operator: Operator, tmp_path: Path) -> None:
    _, client, mine, _ = two_customers(operator)
    token = token_of(link_url(client, customer_id=mine))
    with another_api(elsewhere(stack, tmp_path)) as second, ThreadPoolExecutor(20) as pool:
        urls = [operator.url, second] * 10
        answers = list(pool.map(lambda url: press(browser(url), token), urls))
        assert sorted(answer.status_code for answer in answers) == [303] + [410] * 19
        (first,) = [answer for answer in answers if answer.status_code == 303]
        assert all("Portal link used" in answer.text for answer in answers if answer is not first)
        # The session counts at both, and ends at both.
        readers = [browser(url) for url in (operator.url, second)]
        for reader in readers:
            reader.cookies.update(first.cookies)
            assert eventually(lambda reader=reader: reader.get("/dashboard").status_code == 200)
        assert client.delete("/v1/portal-links").status_code == 200
        for reader in readers:
            eventually(lambda reader=reader: reader.get("/dashboard").status_code == 303, 5)


def test_a_link_that_is_late_or_forged_or_changed_is_refused_on_a_page_of_its_own(
    stack: Stack, operator: Operator
) -> None:
    _, client, mine, _ = two_customers(operator)
    url = link_url(client, customer_id=mine)
    reader = browser(operator.url)
    late, just_late = (remade(stack, url, expires_at=minutes_ago(ago)) for ago in (15, 0.2))
    refused(reader.get(PORTAL, params={"token": late}), 410, "Portal link expired")
    # The owner decides by its own clock where ours might be wrong.
    for token in (late, just_late):
        refused(press(reader, token), 410, "Portal link expired")
    link = PortalLinks.of(stack.settings).link(token_of(url))
    theirs = PortalLinks(secrets.token_urlsafe(48)).token(link)
    for wrong in (theirs, token_of(url)[:-3], "x" * 5000, "é"):
        refused(reader.get(PORTAL, params={"token": wrong}), 403, "Not a portal link")
        refused(press(reader, wrong), 403, "Not a portal link")
    nobodys = remade(stack, url, project="prj_none")
    assert reader.get(PORTAL, params={"token": nobodys}).status_code == 404
    assert reader.get(PORTAL).status_code == 200 and press(reader, "").status_code == 403


def test_another_projects_link_shows_nothing_of_this_one(operator: Operator) -> None:
    project, client, mine, _ = two_customers(operator)
    _, theirs, their_customer, _ = two_customers(operator)
    reader = opened(operator.url, token_of(link_url(theirs)))
    for path in ("/dashboard", "/dashboard/ledger/rows"):
        shown = reader.get(path, params={"project": project, "customer_id": ""})
        assert mine not in shown.text and project not in re.sub(r'"[^"]*"', "", shown.text), path
    assert their_customer in reader.get("/dashboard/ledger/rows").text
    assert client.get("/v1/balance").status_code == 200


def test_a_form_from_elsewhere_opens_no_link_and_ends_no_session(operator: Operator) -> None:
    _, client, mine, _ = two_customers(operator)
    token = token_of(link_url(client, customer_id=mine))
    reader = httpx.Client(base_url=operator.url, timeout=30.0)
    for headers in (
        {},
        {"origin": "null"},
        {"origin": "https://evil.example"},
        {"origin": operator.url, "sec-fetch-site": "cross-site"},
        {"origin": operator.url, "sec-fetch-site": "same-site"},
        {"origin": operator.url, "sec-fetch-site": "none"},
    ):
        refused(press(reader, token, **headers), 403, "Not a form of yours")
    assert press(reader, token, **{"origin": "null", "sec-fetch-site": "same-origin"}).status_code == 303
    others = opened(operator.url, token_of(link_url(client, customer_id=mine)))
    out, page = "/dashboard/sign-out", reader.get("/dashboard").text
    for data in ({"x": ""}, {"csrf": ""}, {"csrf": "a.b"}, {"csrf": csrf_of(others.get("/dashboard").text)}):
        assert reader.post(out, data=data).status_code == 403, data
    own = {"csrf": csrf_of(page)}
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert reader.post(out, data=own, headers=headers).status_code == 403, headers
    assert reader.get("/dashboard").status_code == 200
    copy = browser(operator.url)
    copy.cookies.update(reader.cookies)
    done = reader.post(out, data=own)
    assert done.status_code == 303 and not reader.cookies
    assert copy.get("/dashboard").status_code == 303 and press(copy, token).status_code == 410
    assert reader.get("/dashboard").status_code == 303 and others.get("/dashboard").status_code == 200


def test_a_session_that_was_there_before_is_never_gone_on_with(stack: Stack, operator: Operator) -> None:
    """Fixation: somebody puts a cookie of theirs into a browser, and waits for what becomes of it."""
    _, client, mine, _ = two_customers(operator)
    attacker, key = browser(operator.url), operator.key(operator.project())["key"]
    assert attacker.post("/dashboard/sign-in", data={"key": key}).status_code == 303
    ((name, planted),) = attacker.cookies.items()
    assert stack.settings.session_key is not None
    sessions = Sessions(stack.settings.session_key.get_secret_value())
    ids = set[str]()
    for given in (planted, "made up", planted[:-2]):
        reader = browser(operator.url)
        reader.cookies.set(name, given)
        press(reader, token_of(link_url(client, customer_id=mine)))
        got = next(each.value for each in reader.cookies.jar if each.value != given)
        session = sessions.opened(got or "")
        assert isinstance(session, Session) and session.portal is not None and session.portal.customer == mine
        ids.add(session.id)
    before = sessions.opened(planted)
    assert before is not None and len(ids | {before.id}) == 4
    assert mine not in attacker.get("/dashboard").text
    # What only looks like a session is none: another key, or content that was changed.
    for made in (Sessions(secrets.token_urlsafe(48)).sealed(before), "e30" + planted):
        forger = browser(operator.url)
        forger.cookies.set(name, made)
        assert forger.get("/dashboard").status_code == 303


def following(reader: httpx.Client, entry: str) -> Iterator[str]:
    """The lines of the live ledger's page, after an entry."""
    with reader.stream("GET", "/dashboard/ledger/stream", params={"after": entry}, timeout=30.0) as answer:
        assert answer.status_code == 200
        yield from answer.iter_lines()


@pytest.mark.parametrize("ending", ["key revoked", "links ended", "project closed"])
def test_what_ends_a_portal_ends_its_page_and_its_open_stream_at_once(operator: Operator, ending: str) -> None:
    project, client, mine, other = two_customers(operator)
    linking = operator.key(project, scopes=["portal:write", "content:read"])
    token = token_of(link_url(operator.client(linking["key"]), customer_id=mine))
    reader = opened(operator.url, token)
    unopened = token_of(link_url(operator.client(linking["key"]), customer_id=mine))
    entry = client.get("/v1/ledger").json()["entries"][-1]["entry_id"]
    lines = following(reader, entry)
    next(lines)  # it is open
    theirs, own = use(client, other, "website"), use(client, mine)
    seen = list[str]()
    for line in lines:
        seen.append(line)
        if own in line:
            break
    at = now_ms()
    of_admin = f"/v1/admin/projects/{project}"
    if ending == "key revoked":
        assert operator.http.delete(f"{of_admin}/keys/{linking['key_id']}").status_code == 204
    elif ending == "links ended":
        assert operator.http.delete(f"{of_admin}/portal-links").status_code == 200
    else:
        assert operator.http.put(f"{of_admin}/state", json={"closed": True}).status_code == 200
    page = reader.get("/dashboard")
    assert page.status_code == 303 and page.headers["location"].startswith(f"{PORTAL}?why=You+were+signed+out")
    told = reader.get(page.headers["location"])
    assert told.status_code == 200 and linking["key_id"] not in told.text + page.headers["location"]
    rest = list(lines)
    assert "event: end" in rest and now_ms() - at < 5_000
    text = "\n".join(seen + rest)
    assert own in text and theirs not in text and other not in text and linking["key_id"] not in text
    refused(press(browser(operator.url), unopened), 410, "Portal ended")


def test_a_portal_that_an_admin_made_ends_where_the_admin_has_another_key(
    stack: Stack, operator: Operator, tmp_path: Path
) -> None:
    """Settings are read as an API starts, so one that has started with the new key stands for all."""
    project, client, _, _ = two_customers(operator)
    support = operator.client(ADMIN_KEYS["support"])
    links = f"/v1/admin/projects/{project}/portal-links"
    made, unopened = (support.post(links, json={}).json()["url"] for _ in range(2))
    reader = opened(operator.url, token_of(made))
    entry = client.get("/v1/ledger").json()["entries"][-1]["entry_id"]
    assert reader.get("/dashboard").status_code == 200
    key, key_hash = new_admin_key()
    admins = [
        each.model_copy(update={"key_hash": key_hash}) if each.role == "support" else each
        for each in stack.settings.admins
    ]
    with another_api(elsewhere(stack, tmp_path, admins=admins)) as second:
        there = browser(second)
        there.cookies.update(reader.cookies)
        for path in ("/dashboard", f"/dashboard/ledger/stream?after={entry}"):
            page = there.get(path)
            assert page.status_code == 303 and page.headers["location"].startswith(f"{PORTAL}?why=You+were+signed+out")
        refused(press(browser(second), token_of(unopened)), 410, "Portal ended")
        anew = httpx.post(f"{second}{links}", json={}, headers={"authorization": f"Bearer {key}"}).json()["url"]
        assert opened(second, token_of(anew)).get("/dashboard").status_code == 200
        # A link of a project's key says nothing of an admin's.
        assert opened(second, token_of(link_url(client))).get("/dashboard").status_code == 200


def test_the_audit_says_who_made_the_link_when_it_was_opened_and_names_its_customer_by_a_hash(
    operator: Operator,
) -> None:
    project, client, mine, _ = two_customers(operator)
    made = client.post("/v1/portal-links", json={"customer_id": mine}).json()
    opened(operator.url, token_of(made["url"]))
    audit = {"kind": "portals", "project": project}
    (entry,) = eventually(lambda: operator.http.get("/v1/audit", params=audit).json()["entries"])
    assert entry["action"] == "portal.opened" and entry["actor"].startswith("key_")
    assert entry["metadata"]["link_id"] == made["id"]
    assert entry["metadata"]["customer_sha256"] == sha256(f"{project}\n{mine}".encode()).hexdigest()
    assert mine not in json.dumps(entry)


def test_no_link_and_no_key_is_in_a_log(stack: Stack, operator: Operator) -> None:
    project, client, mine, _ = two_customers(operator)
    key = operator.key(project)["key"]
    tokens = [token_of(link_url(operator.client(key), customer_id=mine)) for _ in range(2)]
    opened(operator.url, tokens[0])
    for token in (*tokens, tokens[0], tokens[1][:-1]):
        browser(operator.url).get(PORTAL, params={"token": token})
        press(browser(operator.url), token)
        press(httpx.Client(base_url=operator.url, timeout=30.0), token)
    logs = "".join(path.read_text(errors="replace") for path in Path(stack.logs_dir).rglob("*") if path.is_file())
    assert logs and not [secret for secret in (key, *tokens) if secret in logs or secret.rpartition(".")[2] in logs]


def test_in_a_real_browser_the_token_leaves_no_trace(operator: Operator, chromium: str) -> None:
    _, client, mine, other = two_customers(operator)
    url = link_url(client, customer_id=mine)
    token = token_of(url)
    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = window.new_context(timezone_id="Asia/Kolkata")
        page = context.new_page()
        said, asked = list[str](), list[tuple[str, dict[str, str]]]()
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: asked.append((request.url, request.all_headers())))
        page.goto(url)
        page.click("button:has-text('Show my usage')")
        page.wait_for_url(f"{operator.url}/dashboard")
        assert mine in page.content() and other not in page.content() and "05:30" not in page.url
        (cookie,) = context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
        assert not page.evaluate("() => document.cookie + JSON.stringify({...localStorage, ...sessionStorage})")[:-2]
        referers = {headers["referer"] for _, headers in asked if "referer" in headers}
        assert not [each for each in referers if token in each]
        assert {urlsplit(each).netloc for each, _ in asked} == {urlsplit(operator.url).netloc}
        page.go_back()
        page.wait_for_load_state()
        page.click("button:has-text('Show my usage')")
        page.wait_for_url(f"{operator.url}/dashboard")  # pressed again in the same browser
        page.click("button:has-text('Sign out')")
        page.wait_for_url(re.compile("/dashboard/portal"))
        assert not context.cookies()
        # The browser itself says that it has forgotten what the server told it to.
        assert [text for text in said if not text.startswith("Clear-Site-Data header on ")] == []
        window.close()


def test_the_brand_is_on_a_portals_pages_and_its_logo_comes_from_our_own_origin(
    stack: Stack, operator: Operator, tmp_path: Path
) -> None:
    _, client, mine, _ = two_customers(operator)
    logo = tmp_path / "logo.png"
    logo.write_bytes(PNG)
    port = lifeline.free_port()
    public = f"http://127.0.0.1:{port}"
    named = {"brand_name": "Acme <Usage>", "brand_logo": logo, "public_url": public, "api_port": port}
    with another_api(elsewhere(stack, tmp_path, **named)) as url:
        theirs = httpx.Client(base_url=url, headers=client.headers)
        link = eventually(
            lambda: (made := theirs.post("/v1/portal-links", json={"customer_id": mine})).is_success and made.json()
        )["url"]
        assert link.startswith(f"{public}{PORTAL}?token=")
        reader = browser(url)
        page = reader.get(link).text
        assert "Acme &lt;Usage&gt;" in page and "Meterline" not in page
        (mark,) = set(re.findall(r'src="(/dashboard/brand/[0-9a-f]+)"', page))
        shown = reader.get(mark)
        assert (shown.content, shown.headers["content-type"]) == (PNG, "image/png")
        assert reader.get("/dashboard/brand/0000").status_code == 404
        press(reader, token_of(link))
        assert "Meterline" not in reader.get("/dashboard").text
    with pytest.raises(OperatorError, match=r"METERLINE_BRAND_LOGO is .*neither PNG nor JPEG"):
        logo.write_bytes(b"<svg/>")
        Brand.of(Settings(brand_logo=logo))


@pytest.fixture(scope="module")
def victim(operator: Operator) -> Belongings:
    project = operator.project("build", name="Victim")
    operator.lift_limits(project)
    return belongings_in(operator, project, "production")


def requests(operation: str, theirs: Belongings) -> Iterator[tuple[str, str, dict[str, str], object]]:
    """The calls by which an operation may aim at somebody's belongings: method, path, query and body."""
    method, path = operation.split(" ")
    call = CALLS[operation]
    name = next(iter(re.findall(r"{(\w+)}", path)), None)
    for value in PATHS[name] if name else ("",):
        given = {each: filled(PATHS[each][0], theirs) for each in re.findall(r"{(\w+)}", path)}
        if name:
            given[name] = filled(value, theirs)
        for named in ({}, call.named):
            query = filled(dict(call.query) | named.get("query", {}), theirs)
            yield method, api_path(path, **given), query, filled(named.get("body", call.body), theirs)


@pytest.mark.parametrize("is_whole", [False, True], ids=["one customer", "all of the project"])
def test_whatever_a_portal_asks_the_api_for_it_gets_what_is_listed_and_no_more(
    stack: Stack, operator: Operator, victim: Belongings, tmp_path: Path, is_whole: bool
) -> None:
    """Every operation, through the app's own layers, as a page would ask."""
    settings = elsewhere(stack, tmp_path)
    client = operator.client(operator.key(victim["project"])["key"])
    last = use(client, "mine", "image")
    eventually(lambda: last in client.get("/v1/ledger").text)
    listed, wrong = OF_PROJECT if is_whole else OF_CUSTOMER, list[str]()
    hidden = {name: value for name, value in victim.items() if name not in ("project", "month")}

    async def ask_all() -> None:
        app = create_app(settings)
        async with app.router.lifespan_context(app):
            services = app.state.services
            while services.accounts.lag_ms(victim["project"]) < 0:
                await asyncio.sleep(0.05)
            account = services.accounts.get(victim["project"])
            assert isinstance(account, Account)
            maker = next(key.id for key in account.keys if "*" in key.scopes)
            customer = "" if is_whole else "mine"
            link = PortalLink("plk_1", victim["project"], "production", customer, maker, account.last_offset, 0)
            own = OwnApi(app, {}, portal_caller(settings, account, link, now_ms()))
            for operation, call in CALLS.items():
                if operation == STREAM:
                    continue  # goes on, and so is no answer: it is followed by another test
                for method, path, query, body in requests(operation, victim):
                    answer = await own.call(method, path, query, body)
                    what = f"{operation} {path} {query}: {answer.status}"
                    code = answer.problem.code if answer.problem else ""
                    if call.scope != OPEN and (code == "not_in_portal") != (operation not in listed):
                        wrong.append(f"{what} {code}")
                    text = json.dumps(answer.data)
                    sent = f"{path} {query} {body}"
                    told = [] if is_whole else [n for n, v in hidden.items() if v in text and v not in sent]
                    if told:
                        wrong.append(f"{what} tells of {told}: {text[:300]}")
            for query in ({"customer_id": victim["customer"]}, {"group_by": "customer_id"}) if not is_whole else ():
                usage = (await own.call("GET", "/v1/usage", query)).data
                assert {each["group"].get("customer_id", "mine") for each in usage["rows"]} == {"mine"}
            ledger = (await own.call("GET", "/v1/ledger", {"customer_id": victim["customer"]})).data["entries"]
            whose = {each["customer_id"] for each in ledger}
            assert whose == ({victim["customer"]} if is_whole else {"mine"})
            assert {bool(each["balance"]) for each in ledger} == {is_whole}
            me = await own.call("GET", "/v1/projects/me")
            assert me.data["keys"] == [] if is_whole else me.status == 403

    asyncio.run(ask_all())
    assert not wrong, "\n".join(wrong)
