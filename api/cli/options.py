"""Options and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")]
ProjectArgument = Annotated[str, typer.Argument(help="The project's id.")]
EnvironmentOption = Annotated[str, typer.Option("--environment", help="production or preview")]
ReasonOption = Annotated[str, typer.Option("--reason", help="The reason, kept with the entry.")]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key", help="A command sent again under the same key acts only once. A new key if left out."
    ),
]

WHERE = (
    "Asks the API of METERLINE_API_URL, or of a running `meterline up`, with METERLINE_ADMIN_KEY or the key of `up`."
)
