"""Fields of forms, made of the JSON schema of what a call of the API takes: types, bounds, choices and help stand in
the schema once, and the form has them from there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

import orjson

from schemas.problems import Rejection
from streams.core.foreign import UnreadableError, read

FieldKind = Literal["text", "credits", "choice", "switch", "number", "time", "words", "thresholds", "json"]
_UNITS: Final = {"usd": "USD", "cents": "US cents", "seconds": "seconds"}
_CREDITS_EXAMPLES = ["32", "0.02"]
# A pattern is left to the API, which tells it: browsers read patterns by rules of their own.
_BOUNDS: Final = {"maxLength": "maxlength", "minLength": "minlength", "minimum": "min", "maximum": "max"}


@dataclass(frozen=True, slots=True)
class FormField:
    """A field of a form. `name` is as the API's problems name it, with dots where it is within an object; `choices` and
    `suggestions` are values with their labels; `attributes` are those of the input. A `place` is in the call's path."""

    name: str
    label: str
    kind: FieldKind
    help: str = ""
    is_required: bool = False
    default: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    suggestions: tuple[tuple[str, str], ...] = ()
    attributes: Mapping[str, str | int] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    if_empty: Literal["left out", "null", "list"] = "left out"
    is_place: bool = False

    @property
    def id(self) -> str:
        """The id of its input on a page."""
        return f"field-{self.name.replace('.', '-')}"

    def narrowed(self, choices: Sequence[tuple[str, str]]) -> FormField:
        """The same field, with a choice of these values."""
        return replace(self, kind="choice", choices=tuple(choices), attributes={})


def fields_of(schema: Mapping[str, Any]) -> list[FormField]:
    """The fields for an object of a JSON schema, in order."""
    return list(_fields(schema, schema.get("$defs", {}), "", is_optional=False))


def place_field(name: str) -> FormField:
    """The field for a parameter of a call's path."""
    return FormField(name, label_of(name), "text", is_required=True, attributes={"maxlength": 200}, is_place=True)


def label_of(name: str) -> str:
    """A field's name as a label, its unit in brackets: `cap_usd` is "Cap (USD)"."""
    *words, last = name.rpartition(".")[2].split("_")
    if last in _UNITS and words:
        return f"{' '.join(words).capitalize()} ({_UNITS[last]})"
    if last == "id" and words:
        return f"{' '.join(words).capitalize()} ID"
    return " ".join((*words, last)).capitalize() if (*words, last) != ("id",) else "ID"


def body_of(fields: Iterable[FormField], given: Mapping[str, str], zone: ZoneInfo) -> dict[str, Any]:
    """The body that a form means. What can't be read as what it should be is passed on as it is: the API refuses it by
    name. Times are in the reader's zone. Raises Rejection for JSON that is none."""
    body: dict[str, Any] = {}
    for each in fields:
        if each.is_place:
            continue
        text = given.get(each.name, "").strip()
        if not text and each.kind != "switch":
            if each.if_empty != "left out":
                body[each.name] = None if each.if_empty == "null" else []
            continue
        *parents, name = each.name.split(".")
        inner = body
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = _value(each, text, zone)
    return body


def shown_value(each: FormField, value: Any, zone: ZoneInfo) -> str:
    """A value of the API's, as its field shows it for change."""
    if value is None or value == []:
        return ""
    match each.kind:
        case "switch":
            return "on" if value else ""
        case "time":
            return datetime.fromisoformat(str(value)).astimezone(zone).strftime("%Y-%m-%dT%H:%M")
        case "words":
            return " ".join(value)
        case "thresholds":
            return "\n".join(f"{one['percent']}%" if one.get("percent") else one["threshold"] for one in value)
        case "json":
            return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
        case _:
            return str(value)


def instant_text(text: str, zone: ZoneInfo) -> str:
    """A time that a form has, in UTC: in the reader's zone, unless it says one. What is no time stays as it is, for the
    API to refuse."""

    def parsed(text: str) -> str:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC).isoformat().replace("+00:00", "Z")

    try:
        return read(parsed, text)
    except UnreadableError:
        return text


def _fields(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str, *, is_optional: bool
) -> Iterator[FormField]:
    required = () if is_optional else schema.get("required", ())
    for name, told in schema.get("properties", {}).items():
        inner, is_nullable = _resolved(told, definitions)
        if inner.get("properties"):
            yield from _fields(inner, definitions, f"{prefix}{name}.", is_optional=name not in required)
            continue
        made = _field(f"{prefix}{name}", inner, definitions)
        is_needed = name in required and not is_nullable
        default = told.get("default", inner.get("default"))
        has_default = default is not None and made.kind not in ("words", "json", "thresholds")
        yield replace(
            made,
            is_required=is_needed and made.kind not in ("switch", "thresholds"),
            if_empty=_if_empty(made.kind, is_needed=is_needed, is_null=name in required and is_nullable),
            default=("on" if default else "") if made.kind == "switch" else str(default) if has_default else "",
            choices=made.choices if is_needed or has_default or not made.choices else (("", "–"), *made.choices),
        )


def _if_empty(kind: FieldKind, *, is_needed: bool, is_null: bool) -> Literal["left out", "null", "list"]:
    return "null" if is_null else "list" if is_needed and kind in ("words", "thresholds") else "left out"


def _resolved(told: Mapping[str, Any], definitions: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """A schema without its reference, and whether it may be null instead."""
    found, is_nullable = dict(told), False
    if "anyOf" in found:
        others = [each for each in found.pop("anyOf") if each.get("type") != "null"]
        is_nullable = True
        found = dict(others[0]) | found if len(others) == 1 else found
    if "$ref" in found:
        found = dict(definitions[found.pop("$ref").rpartition("/")[2]]) | found
    return found, is_nullable


def _field(name: str, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> FormField:
    kind = _kind(schema, definitions)
    kept: dict[str, str | int] = {}
    if kind == "choice":
        return FormField(
            name,
            label_of(name),
            "choice",
            schema.get("description", ""),
            choices=tuple((str(each), str(each)) for each in schema["enum"]),
            values={str(each): each for each in schema["enum"]},
        )
    for told, attribute in _BOUNDS.items():
        if told in schema:
            kept[attribute] = schema[told]
    if "minLength" in schema and schema["minLength"] <= 1:
        kept.pop("minlength", None)
    return FormField(name, label_of(name), kind, _help(schema, kind), attributes=kept)


def _kind(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> FieldKind:
    if "enum" in schema:
        return "choice"
    match schema.get("type"):
        case "boolean":
            return "switch"
        case "integer":
            return "number"
        case "array":
            items, _ = _resolved(schema.get("items", {}), definitions)
            is_thresholds = set(items.get("properties", ())) == {"percent", "credits"}
            return "thresholds" if is_thresholds else "words" if items.get("type") == "string" else "json"
        case "string":
            if schema.get("format") == "date-time":
                return "time"
            return "credits" if schema.get("examples") == _CREDITS_EXAMPLES else "text"
    return "json"


def _help(schema: Mapping[str, Any], kind: FieldKind) -> str:
    """The help that a schema has, without how a time or an amount is written: the field shows that."""
    told = str(schema.get("description", ""))
    if kind == "time":
        told = told.removeprefix("RFC 3339 with a zone").lstrip(":;, ")
    if kind == "credits":
        told = told.replace(" as a decimal string", "")
    if kind == "number" and "maximum" in schema and not told:
        return f"{schema.get('minimum', 0):,} to {schema['maximum']:,}"
    if kind == "words":
        told = f"{told} Separated by spaces".strip()
    if kind == "thresholds":
        told = f'One a line: "20%" of a month\'s allowance, or credits such as "500"; at most {schema["maxItems"]}'
    return told[:1].upper() + told[1:]


def _value(each: FormField, text: str, zone: ZoneInfo) -> Any:
    match each.kind:
        case "switch":
            return text == "on"
        case "choice":
            return each.values.get(text, text)
        case "number":
            return int(text) if text.removeprefix("-").isdecimal() and len(text) < 20 else text
        case "time":
            return instant_text(text, zone)
        case "words":
            return text.replace(",", " ").split()
        case "thresholds":
            return [_threshold(line.strip()) for line in text.splitlines() if line.strip()]
        case "json":
            try:
                return read(orjson.loads, text)
            except UnreadableError:
                raise Rejection("invalid_request", f"`{each.name}` is not JSON", each.name) from None
        case _:
            return text


def _threshold(line: str) -> dict[str, Any]:
    percent = line.removesuffix("%").strip()
    if line.endswith("%"):
        return {"percent": int(percent) if percent.isdecimal() and len(percent) < 9 else percent}
    return {"credits": line}
