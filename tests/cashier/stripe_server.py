"""A stand-in for Stripe on the loopback address: as much of /v1/payment_intents as a purchase needs, for the official
library.

Like Stripe, it gives the first answer again under the same idempotency key, a 500 too, once it has begun the request.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

SECRET_KEY = "sk_test_only_for_this_server"
CUSTOMER = "cus_ok"
PAGE = 2

Answer = tuple[int, dict[str, Any]]


class StripeServer:
    """The stand-in server. `intents` are the payment intents it holds, `asked` the requests as (method, path,
    idempotency key).

    A payment method does as its id says: pm_ok pays, pm_declined is declined, pm_action asks for a customer who is not
    there, pm_slow is still processing the first `looks` times that it is looked at. A customer or method in `missing`
    is not known. `faults` happen to the next attempts to pay, one each: "500 before" anything was done, "500 after" it
    was done, "hang" and "drop" after it was done, "429".
    """

    def __init__(self) -> None:
        self.intents: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, str]] = []
        self.faults: list[str] = []
        self.looks = 1
        self.missing: set[str] = set()
        self.hang_seconds = 3.0
        self.answers: dict[str, Answer | None] = {}
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def paid(self) -> list[dict[str, Any]]:
        return [each for each in self.intents if each["status"] == "succeeded"]

    def statuses(self) -> list[str]:
        return [each["status"] for each in self.intents]

    @contextmanager
    def running(self) -> Iterator[StripeServer]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()

    def _create(self, form: dict[str, str], key: str) -> tuple[Answer, str]:
        with self._lock:
            fault = self.faults.pop(0) if self.faults else ""
            if fault == "500 before":
                return _error(500, "api_error"), ""
            if fault == "429":
                return _error(429, "invalid_request_error", "rate_limit"), ""
            if key in self.answers:
                answered = self.answers[key]
                return answered or _error(409, "idempotency_error", "idempotency_key_in_use"), fault
            if form["payment_method"] in self.missing:
                return _error(400, "invalid_request_error", "resource_missing"), ""
            self.answers[key] = None
        time.sleep(0.05)
        with self._lock:
            answer = self._pay(form)
            if fault == "500 after":
                answer = _error(500, "api_error")
            self.answers[key] = copy.deepcopy(answer)
        return answer, fault

    def _pay(self, form: dict[str, str]) -> Answer:
        method = form["payment_method"]
        intent: dict[str, Any] = {
            "id": f"pi_{len(self.intents) + 1}",
            "object": "payment_intent",
            "created": int(time.time()),
            "customer": form["customer"],
            "amount": int(form["amount"]),
            "currency": form["currency"],
            "payment_method": method,
            "status": {"pm_action": "requires_action", "pm_slow": "processing"}.get(method, "succeeded"),
            "last_payment_error": None,
            "metadata": {name[9:-1]: value for name, value in form.items() if name.startswith("metadata[")},
            "form": form,
        }
        self.intents.insert(0, intent)
        if method != "pm_declined":
            return 200, intent
        failure = {"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds"}
        intent |= {"status": "requires_payment_method", "last_payment_error": failure}
        return 402, {"error": failure | {"message": "Your card was declined.", "payment_intent": dict(intent)}}

    def _list(self, query: dict[str, str]) -> Answer:
        if query["customer"] in self.missing:
            return _error(400, "invalid_request_error", "resource_missing")
        found = [each for each in self.intents if each["created"] >= int(query["created[gte]"])]
        if "starting_after" in query:
            names = [each["id"] for each in found]
            found = found[names.index(query["starting_after"]) + 1 :]
        page = {"object": "list", "url": "/v1/payment_intents", "has_more": len(found) > PAGE, "data": found[:PAGE]}
        return 200, page

    def _retrieve(self, name: str) -> Answer:
        intent = self._named(name)
        if intent["status"] == "processing":
            self.looks -= 1
            if self.looks <= 0:
                intent["status"] = "succeeded"
        return 200, intent

    def _cancel(self, name: str) -> Answer:
        intent = self._named(name)
        if not intent["status"].startswith("requires_"):
            return _error(400, "invalid_request_error", "payment_intent_unexpected_state")
        intent["status"] = "canceled"
        return 200, intent

    def _named(self, name: str) -> dict[str, Any]:
        return next(each for each in self.intents if each["id"] == name)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stripe = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                name = url.path.removeprefix("/v1/payment_intents").strip("/")
                query = dict(parse_qsl(url.query))
                self._answer(lambda: (stripe._retrieve(name) if name else stripe._list(query), ""))

            def do_POST(self) -> None:
                form = dict(parse_qsl(self.rfile.read(int(self.headers["content-length"])).decode()))
                name = self.path.removeprefix("/v1/payment_intents").strip("/")
                key = self.headers.get("idempotency-key", "")
                if name:
                    self._answer(lambda: (stripe._cancel(name.removesuffix("/cancel")), ""))
                else:
                    self._answer(lambda: stripe._create(form, key))

            def _answer(self, made: Any) -> None:
                stripe.asked.append((self.command, self.path, self.headers.get("idempotency-key", "")))
                if self.headers["authorization"] != f"Bearer {SECRET_KEY}":
                    (status, body), fault = _error(401, "invalid_request_error"), ""
                else:
                    (status, body), fault = made()
                if fault == "hang":
                    time.sleep(stripe.hang_seconds)
                if fault in ("hang", "drop"):
                    self.close_connection = True
                    return
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.send_header("request-id", "req_1")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def _error(status: int, kind: str, code: str | None = None) -> Answer:
    return status, {"error": {"type": kind, "code": code, "message": "a message that may quote what was sent"}}
