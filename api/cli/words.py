"""Problems of the API in the words of the command line: they name flags and commands, and no field of a body that a
command wrote by itself."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from api.cli.main import app
from schemas.problems import CODES

_ANEW = "then run the command again, under a new --idempotency-key if it had one."
# What whoever runs a command can do, where the API's remedy names requests, headers or routes.
_REMEDIES = {
    "malformed_json": "Give a file of JSON.",
    "invalid_event": "Correct what is named, and run the command again.",
    "missing_field": "Give what is named, and run the command again.",
    "missing_id": "Give every event an id that is unique within its source.",
    "unknown_operation": "`meterline prices list` shows the operations.",
    "invalid_quantity": "Give a whole number from 1 to 10000.",
    "time_out_of_range": "Give a time as RFC 3339 has it, with its zone, at most 31 days old, and not from before the "
    "project was opened.",
    "too_many_events": "Give fewer events at once.",
    "head_too_large": "Give shorter values.",
    "request_timeout": "Run the command again.",
    "too_many_connections": "Run the command again in a second.",
    "body_too_large": "Give a smaller file.",
    "invalid_request": "Correct what is named, and run the command again.",
    "unsupported_media_type": "Is METERLINE_API_URL the API's, and of this version?",
    "not_acceptable": "Is METERLINE_API_URL the API's, and of this version?",
    "unsupported_encoding": "Is METERLINE_API_URL the API's, and of this version?",
    "unreadable_body": "Run the command again.",
    "unprocessable_record": "It is Meterline's fault: once that is mended, run the command again.",
    "unauthenticated": "Set METERLINE_ADMIN_KEY to a key whose hash the API has: `meterline keys admin` makes one.",
    "key_revoked": "Set METERLINE_ADMIN_KEY to another key.",
    "missing_scope": "Set METERLINE_ADMIN_KEY to an admin key that may do this.",
    "wrong_project": "Set METERLINE_ADMIN_KEY to an admin key, or name the project that the key is of.",
    "wrong_environment": "Set METERLINE_ADMIN_KEY to an admin key, or name the environment that the key is of.",
    "unknown_project": "`meterline projects list` shows the projects; `projects create` opens one.",
    "unknown_customer": "Correct --customer: nothing in the history names it.",
    "unknown_key": "`meterline projects show` lists the project's keys.",
    "too_many_streams": "End a `meterline ledger --follow` that nobody looks at, and run the command again.",
    "not_found": "Is METERLINE_API_URL the API's, and of this version?",
    "method_not_allowed": "Is METERLINE_API_URL the API's, and of this version?",
    "too_much_history": "Ask for less: a shorter time, one project, or a smaller page.",
    "out_of_credits": f"Top it up (`meterline credits top-up`), or wait for the next renewal; {_ANEW}",
    "rate_limited": "Wait as long as it says, and run the command again.",
    "over_cost_ceiling": f"Raise the project's cost ceiling (`meterline limits raise`), or ask for less; {_ANEW}",
    "plan_required": f"Change the project's plan (`meterline projects plan`); {_ANEW}",
    "project_closed": f"Reopen it (`meterline projects reopen`); what was used while it was closed is never charged; "
    f"{_ANEW}",
    "unknown_grant": "Take its id from `meterline credits balance`; one used up is gone.",
    "unknown_hold": "`meterline holds list` shows the open ones; a resolved one is gone.",
    "too_many_holds": f"Capture or release some holds (`meterline holds list`); {_ANEW}",
    "unknown_raise": "`meterline limits show` lists those that have not ended.",
    "too_many_raises": f"End some of the project's raises (`meterline limits end-raise`); {_ANEW}",
    "event_id_reused": "Give each use a source and an id of its own; with the content of the first time it gets the "
    "first answer.",
    "job_id_reused": "Give each job an id of its own; with the content of the first time it gets the first answer.",
    "event_held": "Capture or release the event's hold (`meterline holds list`) instead.",
    "unknown_price_book": "`meterline prices changelog` lists the announced ones; the first one is none of them.",
    "already_corrected": "Look at the event's entries again, and correct anew.",
    "unknown_event": "Correct the source and the id: nothing was charged for it.",
    "unknown_receipt": "Take the id of an answer, of an entry or of a hold.",
    "unknown_dead_letter": "Take its id from `meterline dead-letters`.",
    "unknown_endpoint": "`meterline webhooks list` shows a project's endpoints with --project, or else the platform's.",
    "endpoint_exists": "`meterline webhooks list` shows it; for another one give another --idempotency-key.",
    "too_many_endpoints": f"Remove one (`meterline webhooks remove`); {_ANEW}",
    "endpoint_inactive": f"Resume it (`meterline webhooks resume`); {_ANEW}",
    "kind_not_set_up": f"Set the variable that is named, for the API and the courier alike; {_ANEW}",
    "unknown_billing_account": f"Open it first (`meterline billing create`); {_ANEW}",
    "billing_account_exists": "Choose another id, or use `meterline billing change`.",
    "key_shown_before": "Its secret can't be shown again: revoke it, and make another.",
    "idempotency_key_reused": "Give another --idempotency-key to a command with other content.",
    "idempotency_reply_expired": "What came of it stands, and run again it does nothing more. `meterline audit list` "
    f"has what it did. If there is nothing, or a refusal alone, or its hold has ended, {_ANEW}",
    "already_running": "Wait for the first one with this --idempotency-key.",
    "admission_unavailable": "Run the command again in a moment; `meterline ready` says what is away.",
    "decision_timeout": "Run the command again under the same --idempotency-key; `meterline ready` says what is away.",
    "too_many_queries": "Run the command again when other questions are answered.",
    "history_unavailable": "`meterline ready` says what is away; `meterline doctor` checks ClickHouse.",
    "not_ready": "Run the command again shortly; `meterline ready` says what is being waited for.",
    "unreadable_account": "Find what else than a worker wrote to the accounts changelog.",
    "internal_error": "Run the command again; if it persists, the API's log has the request's id.",
}
# Fields whose flag, or argument, has another name than they, or a part of theirs.
_OTHER_NAMES = {
    "bundle_usd": ("bundle",),
    "price_cents": ("price",),
    "credits": ("amount",),
    "cap_usd": ("cap",),
    "subject": ("project",),
    "starts_at": ("from",),
    "ends_at": ("until", "end", "to"),
    "id": ("event_id", "account"),
    "job_id": ("job",),
    "scopes": ("scope",),
    "billing_account": ("account",),
    "good_standing": ("good",),
    "requests_per_minute": ("requests",),
    "time": ("at", "occurred_at"),
    "hold_seconds": ("seconds",),
    "cost_ceiling": ("ceiling",),
    "Idempotency-Key": ("idempotency_key",),
    "event_types": ("event_type",),
    "environments": ("environment",),
    "since": ("from",),
    "notice_id": ("notice",),
    "endpoint_id": ("endpoint",),
}
_QUOTED = re.compile(r"`([A-Za-z_][\w.-]*)`")


def flags_of(command: Any) -> dict[str, str]:
    """The flags and arguments of a command as whoever types it knows them, by the names that fields may have."""
    names: dict[str, str] = {}
    for each in command.params:
        if each.param_type_name == "argument":
            names[str(each.name)] = f"the argument {each.name}"
            continue
        for flag in (flag for flag in each.opts if flag.startswith("--")):
            names[flag.removeprefix("--").replace("-", "_")] = flag
            names.setdefault(str(each.name), flag)
    return names


def takes_file(command: Any) -> bool:
    """Whether a command sends a file of the user's: then what the API says of fields is about what the user wrote."""
    return any(each.param_type_name == "argument" and each.bare_type() == "Path" for each in command.params)


def cli_words(problem: Mapping[str, Any], flags: Mapping[str, str], *, has_file: bool = False) -> str:
    """A problem of the API as one line: its code, what it says in terms of `flags`, and what to do. With `has_file`,
    fields that are no flag's stand in the user's own file, and are named too."""
    code = str(problem.get("code", problem.get("status")))
    kind = CODES.get(code)
    detail = str(problem["detail"])
    if kind is None:
        return f"{code}: {detail}"
    # The API's words end with its own remedy. An API of another version may have another one.
    told = detail.removesuffix(kind.remedy).rstrip(" .")
    remedy = _REMEDIES.get(code, kind.remedy) if detail.endswith(kind.remedy) or code in _REMEDIES else ""
    unnamed = [name for name in _QUOTED.findall(told) if not _flag(name, flags)]
    if unnamed and not has_file:
        told = kind.title
    told = _QUOTED.sub(lambda found: _flag(found[1], flags) or found[0], told)
    told = told.replace("Idempotency-Key", "--idempotency-key")
    field = str(problem.get("field") or "")
    where = _flag(field, flags) or (field if has_file else "")
    about = f" ({where})" if where and where not in told else ""
    return f"{code}: {told}{about}. {remedy}".rstrip()


def words_of(problem: Mapping[str, Any]) -> str:
    """A problem as one line, in terms of the flags of the command that runs."""
    command = command_of(sys.argv[1:])
    return cli_words(problem, flags_of(command), has_file=takes_file(command))


def command_of(words: Sequence[str]) -> Any:
    """The command that these arguments of `meterline` call, or the group that they come to."""
    found: Any = typer.main.get_group(app)
    for word in words:
        there_is = getattr(found, "get_command", None)
        inner = there_is(None, word) if there_is is not None else None
        if inner is None:
            break
        found = inner
    return found


def _flag(field: str, flags: Mapping[str, str]) -> str:
    """The flag of a field, or "" where there is none."""
    last = field.rpartition(".")[2]
    for name in (field, last, *_OTHER_NAMES.get(last, ())):
        if name in flags:
            return flags[name]
    return ""
