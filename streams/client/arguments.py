"""Arguments of the client are checked before anything is sent: what can never be right raises ArgumentError here."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from math import isfinite
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from schemas.commands import HOLD_SECONDS_MAX
from schemas.events import EVENT_TYPE, Name, UsageEvent
from schemas.facts import is_decision_id
from schemas.problems import CODES, Rejection
from streams.core.acceptance import check_project_id, moment_of
from streams.core.foreign import UnreadableError, decoded, read
from streams.core.pricing import UNMETERED, meter
from streams.core.replies import check_key

REASON_CHARS_MAX = 200
# Shapes of arguments, for `check`.
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
SomeSeconds = Annotated[float, Meta(gt=0)]
HoldSeconds = Annotated[int, Meta(ge=1, le=HOLD_SECONDS_MAX)]
Reason = Annotated[str, Meta(max_length=REASON_CHARS_MAX)]
Url = Annotated[str, Meta(pattern=r"^https?://[^\s/]+")]
ApiKey = Annotated[str, Meta(pattern=r"^[\x21-\x7e]+$")]

_encode = msgspec.json.Encoder().encode


class ArgumentError(Rejection, ValueError):
    """An argument that can never be right, and nothing was sent for it. `argument` names it, as the caller calls it;
    the text says what to give instead. `source` and `id` name the usage event that it is about, or are ""."""

    def __init__(
        self, argument: str, detail: str, code: str = "invalid_request", *, source: str = "", id: str = ""
    ) -> None:
        super().__init__(code, detail, argument)
        self.argument = argument
        self.source = source
        self.id = id

    def __str__(self) -> str:
        return f"{self.argument}: {self.detail}{of_event(self.source, self.id)}"


def of_event(source: str, id: str) -> str:
    """The words that name an event at the end of an error's text; "" where it has no id."""
    return f" (event {id!r} of source {source!r})" if id else ""


def check(argument: str, value: object, shape: Any) -> None:
    """Check an argument by its shape, a type with bounds as msgspec has them. Raises ArgumentError."""
    try:
        read(partial(msgspec.convert, type=shape), value)
    except UnreadableError as error:
        raise ArgumentError(argument, f"{value!r:.80} won't do: {_lower(str(error))}") from None
    if isinstance(value, float) and not isfinite(value):
        raise ArgumentError(argument, f"{value!r} won't do: expected a number of seconds that ends")


def check_hold(project: str, hold_id: str) -> None:
    """Check what a hold is named by. Raises ArgumentError."""
    _check_project(project)
    if not isinstance(hold_id, str) or not is_decision_id(hold_id):
        raise ArgumentError("hold_id", f"{hold_id!r:.80} is no hold's id; give the `hold_id` of the decision")


def rfc_3339(time: str | datetime) -> str:
    """The time of an event as its text: "" for now. Raises ArgumentError for a datetime without a zone."""
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ArgumentError(
                "time", f"{time!r} has no zone; give it its own, as in datetime.now(UTC)", "time_out_of_range"
            )
        return time.astimezone(UTC).isoformat()
    return time


def checked_event(project: str, id: str, source: str, time: str | datetime, data: Mapping[str, Any]) -> UsageEvent:
    """The usage event of these arguments; `data` has its fields. Raises ArgumentError, which names the argument, where
    no project and no price book could take it."""
    event = {
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": EVENT_TYPE,
        "subject": project,
        "data": data,
        "time": rfc_3339(time),
    }
    try:
        made: UsageEvent = decoded(partial(msgspec.convert, type=UsageEvent), event)
        _check_meaning(made)
    except Rejection as rejection:
        raise argument_error(rejection, source, id) from None
    return made


def checked_admission(
    project: str,
    operation: str,
    id: str,
    source: str,
    hold: bool,
    hold_seconds: int | None,
    idempotency_key: str,
    key_id: str,
    data: Mapping[str, Any],
) -> UsageEvent:
    """The event that a request for an admission is about, with all other arguments of it checked. Raises
    ArgumentError."""
    event = checked_event(project, id, source, "", data)
    check("hold", hold, bool)
    if hold_seconds is not None:
        check("hold_seconds", hold_seconds, HoldSeconds)
        if not hold:
            raise ArgumentError("hold_seconds", "nothing is held for so long; say hold=True as well")
    check("key_id", key_id, Annotated[str, Meta(max_length=256)])
    check("idempotency_key", idempotency_key, str)
    try:
        if idempotency_key:
            check_key(idempotency_key, "idempotency_key")
    except Rejection as rejection:
        raise argument_error(rejection, source, id) from None
    return event


def check_operation(argument: str, operation: str) -> None:
    """Check the name of an operation, whatever its details. Raises ArgumentError."""
    check(argument, operation, Name)
    if operation in UNMETERED - {"social_post", "video"}:
        raise ArgumentError(argument, f"{operation!r} is billed beside social_post: name that, with its media_type")


def _check_project(project: str) -> None:
    check("project", project, str)
    try:
        check_project_id(project)
    except Rejection as rejection:
        raise argument_error(rejection) from None


def _check_meaning(event: UsageEvent) -> None:
    """Check what the shape of an event leaves open. Raises Rejection."""
    check_project_id(event.subject)
    if event.time:
        moment_of(event.time)
    check_operation("operation", event.data.operation)
    meter(event.data, None)
    for name, value in (event.data.metadata or {}).items():
        if isinstance(value, float) and not isfinite(value):
            raise ArgumentError("metadata", f"{name!r} is {value!r}; give a finite number")
    texts = {"project": event.subject, "id": event.id, "source": event.source, "operation": event.data.operation}
    for name, text in (texts | {"job_id": event.data.job_id, "metadata": event.data.metadata}).items():
        try:
            # Half an emoji is found by nothing else.
            decoded(_encode, text)
        except Rejection as rejection:
            raise ArgumentError(name, f"it can't be written as JSON: {rejection.detail}") from None


def argument_error(rejection: Rejection, source: str = "", id: str = "") -> ArgumentError:
    """The ArgumentError for what is wrong with an event: an argument's name for the field's, and the remedy."""
    if isinstance(rejection, ArgumentError):
        argument, detail = rejection.argument, rejection.detail
    else:
        field = (rejection.field or "event").removeprefix("data.")
        argument = "project" if field == "subject" else field.partition("[")[0].partition(".")[0]
        words = rejection.detail.replace("`data.", "`").replace("`subject`", "`project`").removeprefix(f"`{argument}`")
        detail = f"{_lower(words.lstrip(': '))}. {CODES[rejection.code].remedy.rstrip('.')}"
    named = all(isinstance(each, str) for each in (source, id))
    return ArgumentError(argument, detail, rejection.code, source=source if named else "", id=id if named else "")


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]
