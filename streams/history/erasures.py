"""Erasures as the API asks for them: what there is to erase, and how far one is."""

from __future__ import annotations

from schemas.facts import PLACE_ID
from schemas.http.erasures import ErasureProgress
from schemas.problems import Rejection
from schemas.times import DAY_MS
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.erasures import Erasure, erasure_of, failure_of, unerased
from streams.core.erasures import customer_hash
from streams.history.facts import kind_in, newest_facts
from streams.kafka.clock import now_ms

_ALL_OFFSETS = (1 << 63) - 1


def erasable(clickhouse: ClickHouse, project: str, customer: str, partition: int) -> ErasureProgress:
    """The rows that an erasure would change now, of a project in this partition, or of one customer of it where
    `customer` is not "". Raises Rejection `unknown_customer` for one whom nothing names or ever named."""
    name = customer_hash(project, customer) if customer else ""
    found = _progress(clickhouse, Erasure(project, name, partition, _ALL_OFFSETS, 0, now_ms() + DAY_MS), None)
    if found.done and customer and not _was_erased(clickhouse, project, name):
        raise Rejection("unknown_customer", f"Nothing of project {project!r} names this customer", "customer_id")
    return found


def erasure_progress(clickhouse: ClickHouse, project: str, entry: str) -> ErasureProgress:
    """How far the erasure with this entry id is. Raises Rejection `unknown_receipt` where there is none in the
    history."""
    place = PLACE_ID.fullmatch(entry)
    if place is not None and place[0] == "-".join(place.groups()):
        names = ("partition", "offset", "position")
        found = newest_facts(
            clickhouse,
            f"project = {{project:String}} AND {kind_in('erasure')} AND partition = {{partition:UInt64}} "
            "AND offset = {offset:UInt64} AND position = {position:UInt64}",
            {"project": project} | {name: int(text) for name, text in zip(names, place.groups(), strict=True)},
            1,
        )
        for partition, fact in found:
            erasure = erasure_of(partition, [getattr(fact, name) for name in fact.__struct_fields__])
            if erasure is not None:
                return _progress(clickhouse, erasure, entry)
    raise Rejection("unknown_receipt", f"There is no erasure {entry[:80]!r} of project {project!r}", "entry_id")


def _progress(clickhouse: ClickHouse, erasure: Erasure, entry: str | None) -> ErasureProgress:
    left = unerased(clickhouse, erasure)
    return ErasureProgress(
        project=erasure.project,
        entry_id=entry,
        facts_left=left.facts,
        dead_letters_left=left.dead_letters,
        done=not any(left),
        failure=failure_of(clickhouse) if entry and any(left) else "",
    )


def _was_erased(clickhouse: ClickHouse, project: str, customer_sha256: str) -> bool:
    ((count,),) = clickhouse.query(
        "SELECT count() FROM erasures WHERE project = {project:String} AND customer_sha256 IN ('', {name:String})",
        {"project": project, "name": customer_sha256},
    )
    return bool(count)
