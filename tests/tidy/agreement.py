"""Constants that must agree, though they stand in several places; and constants that stand in one place only."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import yaml
from pydantic import BaseModel

from api.cli.holds import extend, place
from api.cli.rehearse import rehearse
from api.dependencies import IdempotencyKey
from schemas.commands import HOLD_SECONDS_MAX
from schemas.events import EVENT_AGE_DAYS_MAX, EVENT_AHEAD_MINUTES_MAX, METADATA_KEYS_MAX
from schemas.http import common
from schemas.http.admissions import BATCH_REQUESTS_MAX, BatchAdmissionRequest
from schemas.http.credits import AutoRechargeTerms
from schemas.http.holds import ExtendRequest, ReleaseRequest
from schemas.http.limits import NewLimits
from schemas.http.prices import NewPriceBook
from schemas.http.projects import NewItemQuantity
from schemas.http.rehearsals import NewLimitRehearsal, NewRehearsal
from schemas.prices import MICROCREDITS_PER_CREDIT
from schemas.replies import KEPT_FOR
from streams.clickhouse.client import INSERT_ROWS_MAX
from streams.client.arguments import REASON_CHARS_MAX
from streams.core.booking import FACTS_PER_SLOT
from streams.core.holds import HOLDS_MAX
from streams.core.items import ITEMS_MAX, UNITS_MAX
from streams.core.limits import RAISES_MAX, REQUESTS_MAX
from streams.core.plans import PLANS, REFUND_DAYS
from streams.core.price_list import BOOKS_MAX, NOTICE_DAYS, OPERATIONS_MAX
from streams.core.projects import KEYS_MAX
from streams.core.recharge import CAP_CENTS_MAX
from streams.core.replies import KEY_CHARS_MAX
from streams.embedded.broker import KAFKA_VERSION
from streams.kafka.publisher import REQUEST_BYTES_MAX
from streams.kafka.topics import Topics
from streams.rehearsals import limits as limit_rehearsals
from streams.rehearsals import prices as price_rehearsals
from streams.settings import Settings
from streams.worker.lease import _SHARE_OF_SESSION
from tests.tidy.documents import Figure, first_column, modules_of
from tests.tidy.sources import EVERYWHERE, Source, read, sources


def assigned(files: Iterable[Source], value: int) -> list[str]:
    """The places where a name is given this value, however it is spelt: 86_400_000, or 24 * 3_600_000."""
    return [
        f"{file.path}:{node.lineno}"
        for file in files
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and _number(node.value) == value
    ]


def disagreements(agreements: Mapping[str, Mapping[str, object]]) -> list[str]:
    """The constants that have two values, by what they mean, with the value of each place."""
    return [
        f"{meaning}: {', '.join(f'{place} says {value!r}' for place, value in places.items())}"
        for meaning, places in agreements.items()
        if any(value != next(iter(places.values())) for value in places.values())
    ]


def bounds_that_agree() -> dict[str, dict[str, object]]:
    """The bounds of lists that the core keeps to, and that the API's answers state."""
    return {
        "price books": {"streams/core/price_list.py": BOOKS_MAX, "schemas/http/common.py": common.BOOKS_MAX},
        "keys of a project": {"streams/core/projects.py": KEYS_MAX, "schemas/http/common.py": common.KEYS_MAX},
        "items of a project": {"streams/core/items.py": ITEMS_MAX, "schemas/http/common.py": common.ITEMS_MAX},
        "raises of a project": {"streams/core/limits.py": RAISES_MAX, "schemas/http/common.py": common.RAISES_MAX},
        "open holds of a project": {
            "streams/core/holds.py": HOLDS_MAX,
            "schemas/http/common.py": common.PAGE_ITEMS_MAX,
        },
        "facts of a decision": {
            "streams/core/booking.py": FACTS_PER_SLOT,
            "schemas/http/common.py": common.FACTS_OF_A_DECISION_MAX,
        },
    }


def limits_that_agree() -> dict[str, dict[str, object]]:
    """The limits that the core, the API's schemas, the command line and the gateway each state."""
    settings = Settings.model_json_schema()["properties"]
    asked_in_batch = msgspec.json.schema(BatchAdmissionRequest)["$defs"]["BatchAdmissionRequest"]["properties"]
    (key_header,) = IdempotencyKey.__metadata__
    return {
        "seconds that a hold lasts": {
            "schemas/commands.py": HOLD_SECONDS_MAX,
            "schemas/http/admissions.py": _most(asked_in_batch["hold_seconds"]),
            "schemas/http/holds.py": _most_of(ExtendRequest, "seconds"),
            "`meterline holds place`": _most_of_option(place, "seconds"),
            "`meterline holds extend`": _most_of_option(extend, "seconds"),
        },
        "units of a recurring item": {
            "streams/core/items.py": UNITS_MAX,
            "schemas/http/projects.py": _most_of(NewItemQuantity, "quantity"),
        },
        "requests a minute": {
            "streams/core/limits.py": REQUESTS_MAX,
            "schemas/http/limits.py": _most_of(NewLimits, "requests_per_minute"),
        },
        "requests at once": {
            "streams/core/limits.py": 2 * REQUESTS_MAX,
            "schemas/http/limits.py": _most_of(NewLimits, "burst"),
        },
        "operations in a price book": {
            "streams/core/price_list.py": OPERATIONS_MAX,
            "schemas/http/common.py": common.OPERATIONS_MAX,
            **{f"schemas/http/prices.py {name}": _most_of(NewPriceBook, name) for name in ("rates", "hourly")},
            "schemas/http/prices.py plan_required": _most_of(NewPriceBook, "plan_required"),
        },
        "dollars a month that auto-recharge may spend": {
            "streams/core/recharge.py": CAP_CENTS_MAX // 100,
            "schemas/http/credits.py": _most_of(AutoRechargeTerms, "cap_usd"),
        },
        "days of a price rehearsal": {
            "streams/rehearsals/prices.py": price_rehearsals.DAYS_MAX,
            "schemas/http/rehearsals.py": _most_of(NewRehearsal, "days"),
            "`meterline rehearse`": _most_of_option(rehearse, "days"),
        },
        "days of a limit rehearsal": {
            "streams/rehearsals/limits.py": limit_rehearsals.DAYS_MAX,
            "schemas/http/rehearsals.py": _most_of(NewLimitRehearsal, "days"),
        },
        "characters of an idempotency key": {
            "streams/core/replies.py": KEY_CHARS_MAX,
            "schemas/http/admissions.py": _most(asked_in_batch["idempotency_key"]),
            "api/dependencies.py": next(each.max_length for each in key_header.metadata if hasattr(each, "max_length")),
        },
        "characters of the reason of a release": {
            "streams/client/arguments.py": REASON_CHARS_MAX,
            "schemas/http/holds.py": _most_of(ReleaseRequest, "reason"),
        },
        "rows of an insert": {
            "streams/clickhouse/client.py": INSERT_ROWS_MAX,
            "streams/settings.py": _most(settings["historian_rows_max"]),
        },
        "days of the dedup window": {
            "streams/settings.py": Settings.model_fields["dedup_days"].default,
            "streams/kafka/topics.py": Topics.configs.__defaults__[0] if Topics.configs.__defaults__ else None,
        },
        "how long replies are kept": {"streams/settings.py": Settings().kept_for, "schemas/replies.py": KEPT_FOR},
    }


def files_that_agree(root: Path) -> dict[str, dict[str, object]]:
    """The constants that pyproject, compose, the changelog, the OpenAPI document, READMEs and the code each state."""
    project = tomllib.loads(read(root, "pyproject.toml"))
    tools = project["tool"]
    kafka = yaml.safe_load(read(root, "docker-compose.yml"))["services"]["kafka"]
    product = sources(root, *EVERYWHERE)
    mypy = [each for each in tools["mypy"]["packages"] if not each.startswith("tests")]
    importlinter = [each for each in tools["importlinter"]["root_packages"] if each != "tests"]
    return {
        "Meterline's version": {
            "pyproject.toml": project["project"]["version"],
            "CHANGELOG.md": _first(r"^## (\S+)", read(root, "CHANGELOG.md")),
            "api/openapi.json": json.loads(read(root, "api/openapi.json"))["info"]["version"],
        },
        "the oldest Python": {
            "pyproject.toml requires-python": project["project"]["requires-python"].removeprefix(">="),
            "pyproject.toml ruff": tools["ruff"]["target-version"].replace("py3", "3."),
            "README.md": _first(r"Python (3\.\d+) or newer", " ".join(read(root, "README.md").split())),
        },
        "the packages of the product": {
            "pyproject.toml uv": sorted(tools["uv"]["build-backend"]["module-name"]),
            "pyproject.toml mypy": sorted(mypy),
            "pyproject.toml importlinter": sorted(importlinter),
        },
        "Kafka's version": {
            "streams/embedded/broker.py": KAFKA_VERSION,
            "docker-compose.yml": kafka["image"].rpartition(":")[2],
        },
        "bytes of a request to Kafka": {
            "streams/kafka/publisher.py": str(REQUEST_BYTES_MAX),
            "streams/embedded/broker.py": _first(
                r"^message\.max\.bytes=(\d+)", read(root, "streams/embedded/broker.py")
            ),
            "docker-compose.yml": kafka["environment"]["KAFKA_MESSAGE_MAX_BYTES"],
        },
        "the rooms of streams": {
            "streams/": [each for each in modules_of(product, "streams") if not (root / f"streams/{each}.py").exists()],
            "streams/README.md": first_column(read(root, "streams/README.md")),
        },
        "the modules of the core": {
            "streams/core/": modules_of(product, "streams/core"),
            "streams/core/README.md": first_column(read(root, "streams/core/README.md")),
        },
    }


def figures() -> list[Figure]:
    """The figures that documents state, with the code's values."""
    settings = {name: field.default for name, field in Settings.model_fields.items()}
    lease = {2 / 3: "two thirds"}.get(_SHARE_OF_SESSION, str(_SHARE_OF_SESSION))
    found = [
        Figure("docs/gateways.md", r"decides up to ([\d,]+) requests at once", (f"{BATCH_REQUESTS_MAX:,}",)),
        Figure(
            "docs/producers.md",
            r"at most (\d+) days ago and (\d+) minutes ahead",
            (str(EVENT_AGE_DAYS_MAX), str(EVENT_AHEAD_MINUTES_MAX)),
        ),
        Figure("docs/producers.md", r"up to (\d+) keys of your own", (str(METADATA_KEYS_MAX),)),
        Figure("docs/producers.md", r"up to ([\d,]+) in an array", (f"{settings['events_per_request_max']:,}",)),
        Figure("docs/producers.md", r"decided in the last (\d+) days", (str(settings["dedup_days"]),)),
        Figure("docs/finance.md", r"A bundle of the last (\d+) days can be refunded", (str(REFUND_DAYS),)),
        Figure("docs/finance.md", r"needs (\d+) days between announcement and effect", (str(NOTICE_DAYS),)),
        Figure(
            "docs/operators.md",
            r"without a valid key; (\d+) and (\d+)",
            (str(settings["public_requests_per_minute"]), str(settings["public_burst"])),
        ),
        Figure("docs/operators.md", r"before it is served uncounted; (\d+)", (f"{settings['count_wait_seconds']:g}",)),
        Figure("docs/operators.md", r"to be started afresh; (\d+)", (f"{settings['stall_seconds']:g}",)),
        Figure("docs/internals.md", r"renews for (.{1,20}) of the session timeout", (lease,)),
    ]
    for plan in PLANS.values():
        credits, dollars = plan.allowance // MICROCREDITS_PER_CREDIT, plan.price_cents // 100
        terms = (f"{credits:,}", f"${dollars:,}") if credits else ("by contract", "by contract")
        found.append(Figure("docs/finance.md", rf"\| {plan.name} \| ([^|]+) \| ([^|]+) \|", terms))
        if credits:
            limits = (plan.limits.requests_per_minute, plan.limits.burst, plan.limits.cost_ceiling)
            shown = (*limits[:2], limits[2] // MICROCREDITS_PER_CREDIT)
            pattern = rf"\| {plan.name} \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|"
            found.append(Figure("docs/gateways.md", pattern, tuple(f"{each:,}" for each in shown)))
    return found


def _number(node: ast.expr) -> int | None:
    match node:
        case ast.Constant(value=int() as value):
            return value
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            one, other = _number(left), _number(right)
            return one * other if one is not None and other is not None else None
    return None


def _most_of(model: type[BaseModel], field: str) -> int:
    return _most(model.model_json_schema()["properties"][field])


def _most(schema: dict[str, Any]) -> int:
    """The limit that a JSON schema states for a field, which may be null instead."""
    found = [
        each[name]
        for each in (schema, *schema.get("anyOf", ()))
        for name in ("maximum", "maxLength", "maxProperties")
        if name in each
    ]
    (most,) = found
    return int(most)


def _most_of_option(command: Callable[..., None], option: str) -> object:
    """The greatest value that a command of the CLI takes for an option or argument."""
    (told,) = get_type_hints(command, include_extras=True)[option].__metadata__
    return told.max


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else None
