"""`meterline verify` reconciles accounts, journal and history, and can rebuild the accounts from the log."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.options import JsonOption
from api.cli.output import print_json, styled, tell_failure, working
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.reconcile.rebuild import Rebuilt
    from streams.reconcile.verify import Verdict

DRIFT = 1
COULD_NOT_COMPARE = 2

app = typer.Typer()


@app.command()
def verify(
    as_json: JsonOption = False,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Also decide the whole intake log anew, and compare accounts byte by byte."),
    ] = False,
) -> None:
    """Reconcile accounts, journal and ClickHouse on a live system, and find uses that were accepted and led to nothing.
    Exit code 1 says that they differ, or that there are such uses, 2 that they could not be compared."""
    try:
        verdict, rebuilt = _compare(rebuild)
    except Exception as error:
        from api.cli.failures import sentence_of

        sentence = sentence_of(error)
        if as_json:
            print_json({"ok": False, "error": sentence})
        else:
            tell_failure(sentence)
        raise typer.Exit(COULD_NOT_COMPARE) from None
    ok = verdict.ok and (rebuilt is None or rebuilt.ok)
    if as_json:
        found = verdict.as_json() | ({"rebuild": rebuilt.as_json()} if rebuilt is not None else {})
        print_json(found | {"ok": ok})
    else:
        print(f"{verdict.projects:,} projects, {verdict.facts:,} facts, {verdict.seconds:.1f} s")
        for difference in verdict.differences:
            print(
                f"{difference.project} {difference.grant_id} {difference.measure}: {difference.between} differ, "
                f"{difference.first:,} and {difference.second:,} microcredits {' '.join(difference.entry_ids)}"
            )
        drift = verdict.drift_microcredits or len(verdict.differences)
        print(f"drift: {verdict.drift_microcredits:,} microcredits" if drift else "no drift")
        if verdict.use_accepted_but_unbilled:
            print(f"accepted, and never billed or refused: {verdict.use_accepted_but_unbilled:,} uses")
            print(f"repeats of nothing: {' '.join(verdict.unbilled)}")
        if rebuilt is not None:
            print(f"rebuilt: {rebuilt.records:,} records, {rebuilt.accounts:,} accounts, {rebuilt.seconds:.1f} s")
            print("byte-equal" if rebuilt.ok else f"{rebuilt.different:,} differ: {' '.join(rebuilt.named)}")
    if not ok:
        raise typer.Exit(DRIFT)


def _compare(rebuild: bool) -> tuple[Verdict, Rebuilt | None]:
    from streams.clickhouse.client import ClickHouse
    from streams.embedded.running import reach
    from streams.reconcile.rebuild import rebuild as run_rebuild
    from streams.reconcile.verify import check_comparable
    from streams.reconcile.verify import verify as run

    settings = reach(Settings())
    asyncio.run(check_comparable(settings))
    clickhouse = ClickHouse(settings)
    try:
        with working("") as status:

            def tell(text: str) -> None:
                status.update(styled(text))

            verdict = asyncio.run(run(settings, clickhouse, tell))
            return verdict, asyncio.run(run_rebuild(settings, tell)) if rebuild else None
    finally:
        clickhouse.close()
