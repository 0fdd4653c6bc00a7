"""Options and arguments that several commands share."""

from __future__ import annotations

import re
from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")]
ProjectArgument = Annotated[str, typer.Argument(help="The project's id.")]
ENVIRONMENT_HELP = "production or preview"
SinceOption = Annotated[str | None, typer.Option("--from", help="RFC 3339 with a zone; 30 days ago if left out.")]
UntilOption = Annotated[str | None, typer.Option("--to", help="RFC 3339 with a zone; exclusive, now if left out.")]
DaySinceOption = Annotated[str | None, typer.Option("--from", help="RFC 3339 with a zone; or a day, UTC.")]
DayUntilOption = Annotated[str | None, typer.Option("--to", help="RFC 3339 with a zone; or a day, UTC; exclusive.")]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, max=1_000, help="Print at most this many; 100 if left out.")
]
CursorOption = Annotated[str | None, typer.Option("--cursor", help="Go on after a page: give its next_cursor.")]
EnvironmentOption = Annotated[str, typer.Option("--environment", help=ENVIRONMENT_HELP)]
AnyEnvironmentOption = Annotated[
    str | None, typer.Option("--environment", help=f"{ENVIRONMENT_HELP}; both if left out.")
]
CustomerOption = Annotated[
    str | None, typer.Option("--customer", help="Only of the customer whom the metadata names so in customer_id.")
]
SourceArgument = Annotated[str, typer.Argument(help="The event's `source`.")]
EventArgument = Annotated[str, typer.Argument(help="The event's `id`.")]
QuantityOption = Annotated[int | None, typer.Option("--quantity", min=1, help="How many; 1 if left out.")]
MediaTypeOption = Annotated[
    str | None, typer.Option("--media-type", help="What a social post comes with: none, image or video.")
]
TierOption = Annotated[str | None, typer.Option("--tier", help="A video's tier: budget or premium.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="The reason, kept with what is booked.")]
NeededReasonOption = Annotated[str, typer.Option("--reason", help="The reason, kept with what is booked.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show all that the answer says.")]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key", help="A command sent again under the same key acts only once. A new key if left out."
    ),
]

WHERE = (
    "Asks the API of METERLINE_API_URL, or of a running `meterline up`, with METERLINE_ADMIN_KEY or the key of `up`."
)

_DURATION = re.compile(r"(\d{1,7})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def seconds_of(duration: str, option: str) -> int:
    """The seconds of a duration such as 24h. Exits with 2, naming the option, where it is none."""
    found = _DURATION.fullmatch(duration)
    if found is None:
        raise typer.BadParameter(f"{option} is a whole number and s, m, h or d, such as 24h; not {duration!r}")
    return int(found[1]) * _SECONDS[found[2]]
