"""The error codes that Meterline answers with, and the Rejection that carries one."""

from __future__ import annotations

from dataclasses import dataclass

PROBLEM_TYPE_BASE = "https://meterline.dev/problems/"
_ASK_ANEW = "then ask under a new Idempotency-Key."


@dataclass(frozen=True, slots=True)
class ProblemCode:
    """An error code stands for one kind of error: its HTTP status, a short title, and what the caller can do."""

    status: int
    title: str
    remedy: str


# The one place where error codes stand. Dead letters use the same codes as HTTP answers.
CODES: dict[str, ProblemCode] = {
    # An event or a request is malformed.
    "malformed_json": ProblemCode(400, "Malformed JSON", "Send one CloudEvent as a JSON object, or an array of them."),
    "invalid_event": ProblemCode(422, "Invalid event", "Correct the field that is named and send the event again."),
    "missing_field": ProblemCode(422, "Missing field", "Add the field that is named and send the event again."),
    "missing_id": ProblemCode(422, "Missing event id", "Give every event an `id` that is unique within its `source`."),
    "unknown_operation": ProblemCode(422, "Unknown operation", "Use an operation of the price book (GET /v1/prices)."),
    "invalid_quantity": ProblemCode(422, "Invalid quantity", "Send a whole number from 1 to 10000."),
    "time_out_of_range": ProblemCode(
        422,
        "Time out of range",
        "Send `time` as RFC 3339 has it, with its zone, at most 31 days old and 10 minutes ahead, and not from before "
        "the project was opened.",
    ),
    "metadata_too_large": ProblemCode(
        422,
        "Metadata too large",
        "Keep metadata to 32 keys of 64 characters, with values of at most 512 characters or 64 bits.",
    ),
    "too_many_events": ProblemCode(413, "Too many events", "Send fewer events at once."),
    "head_too_large": ProblemCode(431, "Head too large", "Send fewer and shorter headers, and a shorter URL."),
    "request_timeout": ProblemCode(408, "Too slow", "Send the whole request at once, without pauses."),
    "too_many_connections": ProblemCode(
        503, "Too many connections", "Use connections again, close those that rest, and try again in a second."
    ),
    "body_too_large": ProblemCode(413, "Request too large", "Send a smaller body, or more requests."),
    "invalid_request": ProblemCode(422, "Invalid request", "Correct the field that is named."),
    "unsupported_media_type": ProblemCode(
        415, "Unsupported media type", "Send application/cloudevents+json or application/cloudevents-batch+json."
    ),
    "not_acceptable": ProblemCode(
        406, "Not acceptable", "Accept one of the media types that are named, or send no Accept."
    ),
    "unsupported_encoding": ProblemCode(415, "Unsupported content encoding", "Send the body as it is, or as gzip."),
    "unreadable_body": ProblemCode(400, "Body can't be unpacked", "Send the whole body, packed by gzip."),
    "unprocessable_record": ProblemCode(
        422, "Record can't be processed", "It is our fault: once that is mended, send it again under a new id."
    ),
    "unreadable_record": ProblemCode(
        422,
        "Unreadable record",
        "On the intake topic, find who else writes there: only accept and the API may. On the usage topic, upgrade the "
        "workers, or send JSON.",
    ),
    # The caller or its key is not accepted.
    "unauthenticated": ProblemCode(401, "Not authenticated", "Send `Authorization: Bearer mtl_…` with a valid key."),
    "key_revoked": ProblemCode(401, "Key revoked", "Use another key, or have a new one made."),
    "missing_scope": ProblemCode(403, "Missing scope", "Use a key that has the scope that is named."),
    "forged_form": ProblemCode(403, "Not a form of yours", "Load the page again, and send its form."),
    "missing_role": ProblemCode(403, "Not of this role", "Ask an admin who has one of the roles that are named."),
    "wrong_project": ProblemCode(403, "Another project's id", "Use a key of the project that is named."),
    "wrong_environment": ProblemCode(403, "Another environment's budget", "Use a key of that environment."),
    "unknown_project": ProblemCode(404, "Unknown project", "Create the project first, or correct its id."),
    "unknown_key": ProblemCode(404, "Unknown key", "Correct the key's id."),
    "not_found": ProblemCode(404, "Not found", "See /docs for what there is."),
    "method_not_allowed": ProblemCode(405, "Method not allowed", "See /docs for what there is."),
    # The question is understood, but its answer would be too large.
    "too_much_history": ProblemCode(
        422,
        "Too much history",
        "Narrow it: a shorter time (`from`, `to`), fewer groups (`group_by`), one `project`, a smaller page (`limit`).",
    ),
    # The request was decided, and refused.
    # Under its Idempotency-Key a refusal stays what it was, so what mends it ends in a new key.
    "out_of_credits": ProblemCode(402, "Out of credits", f"Top up, or wait for the next renewal; {_ASK_ANEW}"),
    "rate_limited": ProblemCode(429, "Too many requests", "Wait as long as Retry-After says."),
    "over_cost_ceiling": ProblemCode(
        403,
        "Over the cost ceiling",
        f"Have the project's cost ceiling raised, or ask for less at once; {_ASK_ANEW}",
    ),
    "plan_required": ProblemCode(402, "Plan required", f"Upgrade to the Build plan or higher; {_ASK_ANEW}"),
    "project_closed": ProblemCode(
        403,
        "Project closed",
        f"Have the project reopened; what was used while it was closed is never charged; {_ASK_ANEW}",
    ),
    "project_open": ProblemCode(409, "Project open", "There is nothing to reopen."),
    "project_exists": ProblemCode(409, "Project exists", "Choose another id, or use the project that is there."),
    "unknown_grant": ProblemCode(404, "Unknown grant", "Take its id from GET /v1/balance; one used up is gone."),
    "not_refundable": ProblemCode(
        409, "Not refundable", "Bought credits are refundable for 30 days, up to a quarter used."
    ),
    "unknown_hold": ProblemCode(404, "Unknown hold", "GET /v1/holds lists the open ones; a resolved one is gone."),
    "too_many_holds": ProblemCode(409, "Too many holds", f"Capture or release some holds first; {_ASK_ANEW}"),
    "unknown_raise": ProblemCode(404, "Unknown raise", "GET the project's limits lists those that have not ended."),
    "too_many_raises": ProblemCode(409, "Too many raises", f"End some of the project's raises first; {_ASK_ANEW}"),
    "reference_used": ProblemCode(
        409,
        "Payment booked before",
        "A payment's reference counts once for each project: look at the entry that is named, and give another payment "
        "its own reference.",
    ),
    "recharge_settled": ProblemCode(409, "Purchase ended", "Nothing is left to do for this purchase."),
    "event_id_reused": ProblemCode(
        409,
        "Event id reused",
        "Give each use a `source` and `id` of its own; with the content of the first time it gets the first answer.",
    ),
    "job_id_reused": ProblemCode(
        409,
        "Job id reused",
        "Give each job a `job_id` of its own; with the content of the first time it gets the first answer.",
    ),
    "event_held": ProblemCode(409, "Event held", "Capture or release the event's hold (GET /v1/holds) instead."),
    "already_corrected": ProblemCode(409, "Already corrected", "Look at the event's entries again, and correct anew."),
    "unknown_event": ProblemCode(404, "Unknown event", "Correct `source` and `id`: nothing was charged for it."),
    "unknown_receipt": ProblemCode(
        404,
        "Unknown receipt",
        "Take the entry_id of an answer or of GET /v1/ledger, or the x-request-id of a refusal within 24 hours.",
    ),
    "unknown_customer": ProblemCode(
        404, "Unknown customer", "Correct the `customer_id`: nothing in the history names it."
    ),
    "unknown_dead_letter": ProblemCode(404, "Unknown dead letter", "Take its id from GET /v1/admin/dead-letters."),
    "portal_not_set_up": ProblemCode(409, "Portals not set up", "Ask the operator to set METERLINE_SESSION_KEY."),
    "not_in_portal": ProblemCode(403, "Not in this portal", "Ask whoever gave you the link to these pages."),
    "portal_link_expired": ProblemCode(410, "Portal link expired", "Ask for another link, and open it in time."),
    "portal_link_used": ProblemCode(410, "Portal link used", "Ask for another link: each opens once."),
    "portal_link_invalid": ProblemCode(403, "Not a portal link", "Use the link as a whole, as it was given."),
    "portal_ended": ProblemCode(410, "Portal ended", "Ask for another link, if you are still to see these pages."),
    "unknown_endpoint": ProblemCode(404, "Unknown endpoint", "GET /v1/webhook-endpoints lists those that there are."),
    "endpoint_exists": ProblemCode(409, "Endpoint exists", f"Look at the one that is there; for another, {_ASK_ANEW}"),
    "too_many_endpoints": ProblemCode(409, "Too many endpoints", f"Delete one first; {_ASK_ANEW}"),
    "endpoint_inactive": ProblemCode(409, "Endpoint not active", f"Resume the endpoint first; {_ASK_ANEW}"),
    "kind_not_set_up": ProblemCode(
        409, "Kind not set up", f"Ask the operator to set it up, or take another kind; {_ASK_ANEW}"
    ),
    "no_traffic": ProblemCode(404, "Nothing recorded", "Take more days, or more projects."),
    "unknown_billing_account": ProblemCode(
        404, "Unknown billing account", f"Open the billing account first; {_ASK_ANEW}"
    ),
    "billing_account_exists": ProblemCode(409, "Billing account exists", "Choose another id, or PUT to change it."),
    "price_notice_too_short": ProblemCode(
        409, "Notice too short", "Announce an increase at least 30 days before it takes effect."
    ),
    "price_list_changed": ProblemCode(
        409, "Price list changed", "Another price book was announced meanwhile: look at it, and announce anew."
    ),
    "price_version_exists": ProblemCode(409, "Price version exists", "Give the price book a version of its own."),
    "unknown_price_book": ProblemCode(
        404, "Unknown price book", "GET /v1/prices/changelog lists the announced ones; the first one is none of them."
    ),
    "price_book_in_force": ProblemCode(
        409, "Price book in force", "Announce another price book: what was used under this one was charged by it."
    ),
    "key_exists": ProblemCode(409, "Key exists", "Choose another key id."),
    "key_shown_before": ProblemCode(
        409,
        "Key shown before",
        "Its secret can't be shown again: revoke it, and make another under a new Idempotency-Key.",
    ),
    "idempotency_key_reused": ProblemCode(
        409, "Idempotency key reused", "Use a new Idempotency-Key for a request with other content."
    ),
    "idempotency_reply_expired": ProblemCode(
        409,
        "Already decided",
        "What came of it stands, and sent again it does nothing more. Find what it did in GET /v1/ledger, or, where it "
        "moved no credits, in GET /v1/audit. If there is nothing, or a refusal alone, or its hold has ended, "
        f"{_ASK_ANEW}",
    ),
    "already_running": ProblemCode(
        409, "Already running", "Wait for the answer to the first request with this Idempotency-Key."
    ),
    "too_many_streams": ProblemCode(
        429, "Too many streams", "Close a stream that nobody looks at, then open this one again."
    ),
    # We are at fault, or busy.
    "admission_unavailable": ProblemCode(
        503, "Admission unavailable", "Retry after a moment, with the same Idempotency-Key."
    ),
    "decision_timeout": ProblemCode(
        503, "No decision in time", "Retry with the same Idempotency-Key: it is decided once, however often it is sent."
    ),
    "too_many_queries": ProblemCode(
        503, "Too many queries", "Wait for the answers to questions that were asked before, then retry."
    ),
    "history_unavailable": ProblemCode(
        503, "History unavailable", "Retry after a moment; admissions and balances do not wait for history."
    ),
    "not_ready": ProblemCode(503, "Not ready", "Retry shortly; /readyz says what is being waited for."),
    "unreadable_account": ProblemCode(
        503, "Account can't be read", "Tell the operator: something else than a worker wrote to the accounts changelog."
    ),
    "internal_error": ProblemCode(500, "Internal error", "Retry; tell the operator the request id if it persists."),
}


class Rejection(Exception):
    """A rejection is raised for an input that is refused; `code`, one of CODES, says why.

    `field` is a path into the input such as `data.quantity`, or None where no single field is at fault.
    """

    def __init__(self, code: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field

    @property
    def status(self) -> int:
        """The HTTP status that the code is answered with."""
        return CODES[self.code].status
