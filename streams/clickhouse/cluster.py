"""A cluster's words: what Meterline says to a replicated ClickHouse beside what it says to a single server.

The cluster has one shard, whose replicas each hold the whole history: the historian's mark is the table's own maximum,
and no part of the table may be out of its sight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# An insert is acknowledged by most replicas, one block after the other: without the order, no read could tell what came
# last. The wait is shorter than that of the client, which then knows that nobody knows.
QUORUM_SETTINGS: Mapping[str, object] = {
    "insert_quorum": "auto",
    "insert_quorum_parallel": 0,
    "insert_quorum_timeout": 60_000,
}
# A replica that lacks what a quorum has refuses such a question, and so can't give old marks.
CONSISTENT_SETTINGS: Mapping[str, int] = {"select_sequential_consistency": 1}
# Where users are kept in Keeper, one server tells all.
DDL_SETTINGS: Mapping[str, int] = {"ignore_on_cluster_for_replicated_access_entities_queries": 1}

_NAME = r"(?:`(?:[^`\\]|\\.)+`|\w+)(?:\.(?:`(?:[^`\\]|\\.)+`|\w+))?"
_THERE = r"(?:IF NOT EXISTS |IF EXISTS |OR REPLACE )?"
# Statements that every replica has to carry out. ON CLUSTER stands behind the name of what they are about; a grant and
# the end of a mutation have none, and a policy that is dropped names its table first.
_ON_CLUSTER = re.compile(
    rf"GRANT|KILL MUTATION|DROP ROW POLICY {_THERE}{_NAME} ON {_NAME}"
    rf"|(?:CREATE|ALTER|DROP) (?:OR REPLACE )?(?:TABLE|VIEW|USER|ROW POLICY|QUOTA) {_THERE}{_NAME}"
)
_LEFT_ALONE = re.compile(r"(?:INSERT|SELECT|WITH|TRUNCATE)\b")
_ENGINE = re.compile(r"\bENGINE = (\w*MergeTree)\b")
_WINDOW = re.compile(r"\bnon_replicated_deduplication_window\b")


def on_cluster(statement: str, cluster: str) -> str:
    """A statement as all replicas of a cluster carry it out, tables with replicated engines. What reads or writes rows
    is left as it is. Raises ValueError for a kind of statement that is not known here."""
    text = statement.strip()
    if _LEFT_ALONE.match(text):
        return text
    found = _ON_CLUSTER.match(text)
    if found is None:
        raise ValueError(f"how does a cluster carry this out: {text[:60]}")
    rest = _WINDOW.sub("replicated_deduplication_window", text[found.end() :])
    rest = _ENGINE.sub(r"ENGINE = Replicated\1", rest)
    return f"{found[0]} ON CLUSTER `{cluster}`{rest}"
