"""Options and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")]
ProjectArgument = Annotated[str, typer.Argument(help="The project's id.")]
EnvironmentOption = Annotated[str, typer.Option("--environment", help="production or preview")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Kept with the entry.")]
KeyOption = Annotated[
    str,
    typer.Option("--idempotency-key", help="The same key acts once, however often it is sent; a new one unless given."),
]

WHERE = "The API is that of a running `meterline up`, or METERLINE_API_URL; the key METERLINE_ADMIN_KEY."
