"""The table of acts: what an admin may do from a page, each an operation of the API with a title and a sentence. Its
form's fields are derived from the operation's route, so that a form takes what the API takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from api.dashboard.form_fields import FieldKind, FormField, fields_of, place_field

# What an act's form is filled with and chooses from: answers of the API by their names here, None where one is missing.
ActFacts = Mapping[str, Any]
Choices = Mapping[str, Sequence[tuple[str, str]]]

PROJECT: Final = "/v1/admin/projects/{project}"
BILLING: Final = "/v1/admin/billing-accounts"

# What an act may ask for before its form is shown: a path and a query of the API.
SOURCES: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "project": (PROJECT, {}),
    "keys": (f"{PROJECT}/keys", {}),
    "limits": (f"{PROJECT}/limits", {}),
    "auto_recharge": (f"{PROJECT}/auto-recharge", {}),
    "balance": ("/v1/balance", {"environment": "production", "limit": 100}),
    "preview_balance": ("/v1/balance", {"environment": "preview", "limit": 100}),
    "rules": ("/v1/notice-rules", {}),
    "items": ("/v1/items", {}),
    "prices": ("/v1/prices", {}),
    "billing_accounts": (BILLING, {"limit": 200}),
    "billing_account": (f"{BILLING}/{{billing_account}}", {}),
}


def _nothing(_facts: ActFacts) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Act:
    """An act: a call of the API, and how a page offers it. `fixed` are members of its body that the act itself says;
    `present` gives what holds now, for the form; `choices` the values that a field may have. A `grave` act can't be
    taken back as if nothing had been: the project's name is typed first. An `answer` is shown as it came."""

    name: str
    operation: str
    title: str
    says: str
    group: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    is_grave: bool = False
    has_answer: bool = False
    left_out: Sequence[str] = ()
    kinds: Mapping[str, FieldKind] = field(default_factory=dict)
    asks: Sequence[str] = ()
    present: Callable[[ActFacts], Mapping[str, Any]] = _nothing
    choices: Callable[[ActFacts], Choices] = _nothing
    suggestions: Callable[[ActFacts], Choices] = _nothing
    is_offered: Callable[[Mapping[str, Any]], bool] = bool

    @property
    def method(self) -> str:
        """The HTTP method of its call."""
        return self.operation.partition(" ")[0]

    @property
    def path(self) -> str:
        """The path of its call, with its parameters in braces."""
        return self.operation.partition(" ")[2]


@dataclass(frozen=True, slots=True)
class ActForm:
    """An act's form, from its route: fields, and whether and how its call can be rehearsed. `body_dry_run` is one that
    is asked for in the body."""

    fields: tuple[FormField, ...]
    has_body: bool
    query_dry_run: bool
    body_dry_run: bool

    @property
    def has_dry_run(self) -> bool:
        """Whether what would change can be shown first."""
        return self.query_dry_run or self.body_dry_run


def operations_of(app: FastAPI) -> Mapping[str, APIRoute]:
    """The operations of the API with their routes, as in "GET /v1/balance"."""
    found: Mapping[str, APIRoute] = app.state.operations
    return found


def form_of_act(act: Act, route: APIRoute, known: Mapping[str, Any]) -> ActForm:
    """The form of an act by its route; the path parameters that are `known` from the page are no fields of it."""
    schema = _body_schema(route)
    fields = [place_field(each.name) for each in route.dependant.path_params if each.name not in known]
    fields += fields_of(schema) if schema else []
    has_body_dry_run = any(each.name == "dry_run" for each in fields)
    hidden = {"dry_run", *act.left_out, *act.fixed}
    return ActForm(
        tuple(replace(each, kind=act.kinds.get(each.name, each.kind)) for each in fields if each.name not in hidden),
        schema is not None,
        any(each.name == "dry_run" for each in route.dependant.query_params),
        has_body_dry_run,
    )


def _body_schema(route: APIRoute) -> Mapping[str, Any] | None:
    if route.body_field is not None and route.body_field.field_info.annotation is not None:
        return TypeAdapter[Any](route.body_field.field_info.annotation).json_schema()
    content = (route.openapi_extra or {}).get("requestBody", {}).get("content", {})
    schema: Mapping[str, Any] | None = content.get("application/json", {}).get("schema")
    return schema


def _key_choices(facts: ActFacts) -> Choices:
    keys = (facts["keys"] or {}).get("keys", ())
    live = [each for each in keys if each["revoked_at"] is None]
    return {"key_id": [(each["key_id"], _key_label(each)) for each in live]}


def _key_label(key: Mapping[str, Any]) -> str:
    return " · ".join(each for each in (key["name"], key["environment"], key["key_id"]) if each)


def _raise_choices(facts: ActFacts) -> Choices:
    raises = (facts["limits"] or {}).get("raises", ())
    return {"raise_id": [(each["id"], f"{each['id']} · {'on' if each['is_on'] else 'planned'}") for each in raises]}


def _grant_choices(facts: ActFacts) -> Choices:
    return {
        "grant_id": [
            (each["grant_id"], f"{each['remaining']} of {each['granted']} left · {each['granted_at'][:10]} · {where}")
            for source, where in (("balance", "production"), ("preview_balance", "preview"))
            for each in (facts[source] or {}).get("top_ups", ())
        ]
    }


def _item_choices(facts: ActFacts) -> Choices:
    priced = (facts["prices"] or {}).get("hourly", ())
    has = {each["item"]: each["quantity"] for each in (facts["items"] or {}).get("items", ())}
    return {
        "item": [(each["operation"], f"{each['operation']} · {has.get(each['operation'], 0)} now") for each in priced]
    }


def _billing_suggestions(facts: ActFacts) -> Choices:
    accounts = (facts["billing_accounts"] or {}).get("billing_accounts", ())
    return {"billing_account": [(each["id"], each["name"]) for each in accounts]}


def _rules_of(environment: str) -> Callable[[ActFacts], Mapping[str, Any]]:
    def present(facts: ActFacts) -> Mapping[str, Any]:
        rules = (facts["rules"] or {}).get("rules", ())
        return {"rules": [each for each in rules if each["environment"] == environment and not each["is_default"]]}

    return present


def _present(source: str, *names: str) -> Callable[[ActFacts], Mapping[str, Any]]:
    """Take the members of these names from what a source says now; all of them, where none is named."""

    def present(facts: ActFacts) -> Mapping[str, Any]:
        told = facts[source] or {}
        return {name: told[name] for name in names or told if name in told}

    return present


def _of_limits(part: str) -> Callable[[ActFacts], Mapping[str, Any]]:
    return lambda facts: (facts["limits"] or {}).get(part) or {}


def _acts(group: str, *acts: Act) -> tuple[Act, ...]:
    return tuple(replace(each, group=group) for each in acts)


PROJECT_ACTS: Final[tuple[Act, ...]] = (
    *_acts(
        "Money and credits",
        Act(
            "top-up", f"POST {PROJECT}/top-ups", "Add bought credits",
            "Grants a bundle, or an amount by contract, that was paid for.", has_answer=True,
        ),
        Act(
            "grant", f"POST {PROJECT}/grants", "Give promotional credits",
            "Gives credits with an end; they are spent after the allowance and before any bundle.", has_answer=True,
        ),
        Act(
            "refund", f"POST {PROJECT}/refunds", "Refund a purchase",
            "Takes back bought credits of the last 30 days, at most a quarter used. You pay the money back yourself.",
            is_grave=True, has_answer=True, asks=("balance", "preview_balance"), choices=_grant_choices,
        ),
        Act(
            "auto-recharge", f"PUT {PROJECT}/auto-recharge", "Set auto-recharge",
            "Buys a bundle by itself when few credits are left, up to a cap a month.",
            asks=("auto_recharge",), present=_present("auto_recharge"),
        ),
        Act(
            "correction", f"POST {PROJECT}/corrections", "Correct an event",
            "Voids a charge, amends it, or charges an event that came too late. Entries are added, none is changed.",
            kinds={"time": "time"}, has_answer=True,
        ),
    ),
    *_acts(
        "Plan and state",
        Act(
            "plan", f"PUT {PROJECT}/plan", "Change the plan", "An upgrade counts at once; a downgrade at the renewal.",
            asks=("project",), present=_present("project", "plan"),
        ),
        Act(
            "close", f"PUT {PROJECT}/state", "Close the project",
            "From then on nothing is charged and nothing spent; it can be reopened.",
            fixed={"closed": True}, is_grave=True, is_offered=lambda project: project["closed_at"] is None,
        ),
        Act(
            "reopen", f"PUT {PROJECT}/state", "Reopen the project",
            "Its bundles are there again, and this month's allowance if it has not had it.",
            fixed={"closed": False}, left_out=("reason",), is_offered=lambda project: project["closed_at"] is not None,
        ),
        Act(
            "standing", f"PUT {PROJECT}/standing", "Set its standing",
            "Whoever is not in good standing gets no refunds.",
            asks=("project",), present=_present("project", "good_standing"),
        ),
        Act(
            "badge", f"PUT {PROJECT}/badge", "Set its badge",
            "Shows the “Built with” badge, or hides it; free projects show it always.",
            asks=("project",), present=lambda facts: {"shown": (facts["project"] or {}).get("badge_shown", True)},
        ),
        Act(
            "item", f"PUT {PROJECT}/items/{{item}}", "Set a recurring item",
            "Says how many units it has of what is billed by the hour: accounts, domains, storage.",
            asks=("prices", "items"), choices=_item_choices,
        ),
        Act(
            "billing-account", f"PUT {PROJECT}/billing-account", "Set its billing account",
            "Puts it on a billing account's invoice from now on; empty gives it one of its own.",
            asks=("project", "billing_accounts"), present=_present("project", "billing_account"),
            suggestions=_billing_suggestions,
        ),
    ),
    *_acts(
        "Access",
        Act(
            "key", f"POST {PROJECT}/keys", "Make a key", "The new key is shown once.", has_answer=True,
        ),
        Act(
            "rotate-key", f"POST {PROJECT}/keys/{{key_id}}/rotation", "Rotate a key",
            "Makes one of the same scopes, shown once; the old one works on for a while.",
            has_answer=True, asks=("keys",), choices=_key_choices,
        ),
        Act(
            "revoke-key", f"DELETE {PROJECT}/keys/{{key_id}}", "Revoke a key", "It ends at once.",
            asks=("keys",), choices=_key_choices,
        ),
        Act(
            "portal-link", f"POST {PROJECT}/portal-links", "Make a portal link",
            "A link for the project's own customer: read-only, used once, shown once.", has_answer=True,
        ),
        Act(
            "end-portals", f"DELETE {PROJECT}/portal-links", "End its portals",
            "All links that were made before, and the sessions that began with them, end at once.",
        ),
    ),
    *_acts(
        "Limits",
        Act(
            "limits", f"PUT {PROJECT}/limits", "Set limits by contract",
            "Hold over the plan's from now on. A limit left empty is the plan's again.",
            fixed={"is_shadow": False}, asks=("limits",), present=_of_limits("contract"),
        ),
        Act(
            "limit-trial", f"PUT {PROJECT}/limits", "Put limits on trial",
            "Refuse nothing; what they would have refused is recorded. All empty ends the trial.",
            fixed={"is_shadow": True}, asks=("limits",), present=_of_limits("shadow"),
        ),
        Act(
            "limit-raise", f"POST {PROJECT}/limit-raises", "Raise limits for a while",
            "Higher limits for a window of time, such as a launch.", has_answer=True,
        ),
        Act(
            "end-limit-raise", f"DELETE {PROJECT}/limit-raises/{{raise_id}}", "End a raise",
            "Ends it now, or takes back one that has not begun.", asks=("limits",), choices=_raise_choices,
        ),
    ),
    *_acts(
        "Notices and data",
        Act(
            "notice-rules", "PUT /v1/notice-rules", "Set notice rules", "The credits at which the project is told.",
            fixed={"environment": "production"}, asks=("rules",), present=_rules_of("production"),
        ),
        Act(
            "preview-notice-rules", "PUT /v1/notice-rules", "Set notice rules of preview",
            "The preview credits at which the project is told.",
            fixed={"environment": "preview"}, asks=("rules",), present=_rules_of("preview"),
        ),
        Act(
            "erasure", f"POST {PROJECT}/erasures", "Erase metadata",
            "What events said of themselves leaves the history, of all or of one customer. It can't be undone.",
            is_grave=True, has_answer=True,
        ),
    ),
)  # fmt: skip

OPEN_PROJECT: Final = Act(
    "project", "POST /v1/admin/projects", "Open a project", "Its first allowance is granted at once.",
    asks=("billing_accounts",), suggestions=_billing_suggestions,
)  # fmt: skip
OPEN_BILLING_ACCOUNT: Final = Act(
    "billing-account", f"POST {BILLING}", "Open a billing account",
    "One invoice a month for all of its projects; projects are put on it one by one.",
)  # fmt: skip
CHANGE_BILLING_ACCOUNT: Final = Act(
    "terms", f"PUT {BILLING}/{{billing_account}}", "Change name and address",
    "Its invoices show them from now on, those of past months too.",
    asks=("billing_account",), present=_present("billing_account", "name", "email"),
)  # fmt: skip
WITHDRAW_BOOK: Final = Act(
    "withdrawal", "DELETE /v1/admin/price-books/{version}", "Withdraw the price book",
    "Until 10 minutes before it takes effect. It stays in the changelog, and its version is used up.",
)  # fmt: skip
_BY_NAME: Final = {each.name: each for each in PROJECT_ACTS}


def project_act(name: str) -> Act | None:
    """The act of this name that is about a project."""
    return _BY_NAME.get(name)
