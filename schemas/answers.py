"""Answers that are kept: what a request to the HTTP service was told, found again by the request's id."""

from __future__ import annotations

import msgspec


class Answer(msgspec.Struct, omit_defaults=True):
    """An answer of the HTTP service, as it is on Kafka and in the history.

    `operation` is method and route. `project`, `environment` and `key_id` are those of the key that asked; `project` is
    "" for an admin key, and where no valid key came. `reply` is the body of a refusal, cut; `entry_ids` are the first
    facts of what was decided. Nobody is shown it after `kept_until_ms`.
    """

    request_id: str
    answered_at_ms: int
    kept_until_ms: int
    operation: str
    status: int
    project: str = ""
    environment: str = ""
    key_id: str = ""
    code: str = ""
    reply: str = ""
    entry_ids: list[str] = []
