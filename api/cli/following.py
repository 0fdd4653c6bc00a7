"""Following a ledger: its entries are printed as they are decided, and none is missed where the connection is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import httpx

from api.cli.output import cell, console, styled
from api.cli.service import Api, ApiError, SentEvent
from streams.core.foreign import read
from streams.errors import OperatorError

PATH = "/v1/ledger/stream"
# What passes by itself: the API starts, or too many follow.
_PASSING = frozenset({"not_ready", "too_many_connections", "too_many_streams", "rate_limited", "internal_error"})
_PAUSE_SECONDS_MAX = 5.0
_WIDTHS = {"booked_at": 27, "kind": 10, "environment": 11, "operation": 20, "quantity": 8, "amount": 12, "balance": 18}


def follow_ledger(service: Api, asked: dict[str, Any], last: int, columns: Sequence[str], as_json: bool) -> None:
    """Print the `last` entries of a ledger, the oldest first, and then each new one, until Ctrl-C. Raises OperatorError
    where it is refused."""
    try:
        page = service.call("GET", "/v1/ledger", **asked, limit=last).json()
        entries = page["entries"][::-1]
        _tell(dict(zip(columns, columns, strict=True)), columns, False) if not as_json else None
        for entry in entries:
            _tell(entry, columns, as_json)
        _follow(service, asked, entries[-1]["entry_id"] if entries else "", columns, as_json)
    except KeyboardInterrupt:
        return


def _follow(service: Api, asked: dict[str, Any], last_id: str, columns: Sequence[str], as_json: bool) -> None:
    named = {name: value for name, value in asked.items() if name not in ("from", "to")}
    pause, is_lost = 1.0, False
    while True:
        why = "it was ended"
        try:
            for event in service.events(PATH, last_id, **named):
                if is_lost:
                    _note("the connection is back, and nothing was missed")
                last_id, pause, is_lost = event.id, 1.0, False
                _show(event, columns, as_json)
        except httpx.TransportError as error:
            why = str(error)
        except ApiError as error:
            if error.code not in _PASSING:
                raise
            why = str(error)
        if not is_lost:
            _note(f"the connection is lost, and is tried again: {why}")
        is_lost = True
        time.sleep(pause)
        pause = min(2 * pause, _PAUSE_SECONDS_MAX)


def _note(sentence: str) -> None:
    console.print(styled((sentence, "dim")), soft_wrap=True)


def _show(event: SentEvent, columns: Sequence[str], as_json: bool) -> None:
    if not event.data:
        return
    data = read(json.loads, event.data)
    if event.name == "message":
        _tell(data, columns, as_json)
    elif event.name == "gap":
        _note(f"some entries are not shown: {data['detail']}")
    elif event.name == "end":
        raise OperatorError(data["detail"])


def _tell(entry: dict[str, Any], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps(entry), flush=True)
        return
    print("  ".join(cell(entry[name] or "").ljust(_WIDTHS.get(name, 0)) for name in columns).rstrip(), flush=True)
