"""Words of notices, for people: one table, which email and Slack share. Figures are told as they are, never rounded."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from schemas.notices import Notice, NoticeType
from schemas.times import utc
from streams.core.booking import format_credits
from streams.core.foreign import UnreadableError, read

# The subject of each type, and what one can do. {project} is the project's id, with the environment where there is one.
_WORDS: Final[dict[NoticeType, tuple[str, str]]] = {
    "project.credits_low": (
        "{project} has few credits left",
        "Top up, or turn on auto-recharge, before requests are refused.",
    ),
    "project.credits_exhausted": (
        "{project} has no credits left",
        "Requests that cost credits are refused until there are some again: top up, or upgrade the plan.",
    ),
    "project.credits_recovered": (
        "{project} has credits again",
        "Requests are taken as before. You hear again when the next threshold is crossed.",
    ),
    "project.time_to_empty": (
        "{project} will have no credits left before its renewal",
        "At the rate of the last 24 hours its credits end first. Top up, or spend less.",
    ),
    "price.announced": (
        "New prices were announced",
        "They take effect at the time below, and until then nothing changes.",
    ),
    "hold.expired": (
        "A hold of {project} has expired",
        "Nobody captured or released it in time; its credits are free again.",
    ),
    "payment.failed": (
        "A payment of {project} has failed",
        "No credits were bought. See that the payment method is good.",
    ),
    "purchase.succeeded": ("{project} has bought credits", "They can be spent now."),
    "plan.changed": ("{project} is on another plan", "What the plan grants and allows counts from now on."),
    "endpoint.disabled": (
        "An endpoint of {project} gets no more notices",
        "It failed for too long, or asked for no more. Put it right, set it active, and replay what it missed.",
    ),
    "webhook.test": ("A test notice for {project}", "This endpoint works: it hears of notices."),
}
_DECODER = msgspec.json.Decoder(dict[str, Any])
# The end of the year 9999.
_AT_MS_MAX = 253_402_300_799_999
_SAID_CHARS_MAX = 300
_LINES_MAX = 40


def subject_of(notice: Notice) -> str:
    """The subject of a notice: one line, of printable characters alone."""
    where = f" ({notice.environment})" if notice.environment else ""
    project = "the platform" if notice.project in ("", "platform:") else notice.project
    said = _WORDS[notice.type][0].replace("{project}", f"{project}{where}")
    return _plain(said[0].upper() + said[1:] if project != notice.project else said)


def text_of(notice: Notice) -> str:
    """The text of a notice, in plain lines: its subject, what one can do, its figures, and its id."""
    lines = [subject_of(notice), "", _WORDS[notice.type][1], ""]
    told = list(data_of(notice).items())[:_LINES_MAX]
    lines += [f"{_plain(name.replace('_', ' '))}: {_said(value)}" for name, value in told]
    lines += [f"at: {utc(notice.at_ms).isoformat(timespec='seconds')}", f"notice: {_plain(notice.id)}"]
    return "\n".join(lines)


def data_of(notice: Notice) -> dict[str, Any]:
    """The data of a notice: what its type tells beside project and environment; {} where there is nothing."""
    try:
        told = read(_DECODER.decode, notice.data) if notice.data else {}
    except UnreadableError:
        return {}
    return dict(_as_answers_have_it(name, value) for name, value in told.items())


def _as_answers_have_it(name: str, value: Any) -> tuple[str, Any]:
    """Credits as decimal strings and times by RFC 3339, as in the API's answers: facts have microcredits and
    milliseconds."""
    if isinstance(value, int) and not isinstance(value, bool):
        if name.endswith("_microcredits"):
            return name.removesuffix("_microcredits"), format_credits(value)
        if name.endswith("_at_ms") and 0 <= value <= _AT_MS_MAX:
            return name.removesuffix("_ms"), utc(value).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return name, value


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        value = msgspec.json.encode(value).decode()
    return _plain(str(value))


def _plain(text: str) -> str:
    """A text in one line that moves no cursor and begins no header: what does not print is a space."""
    cut = text if len(text) <= _SAID_CHARS_MAX else f"{text[:_SAID_CHARS_MAX]}…"
    return "".join(each if each.isprintable() else " " for each in cut)
