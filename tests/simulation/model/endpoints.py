"""Endpoints, and what their retries cost."""

from __future__ import annotations

from schemas.commands import (
    BillDelivery,
    DeleteEndpoint,
    DisableEndpoint,
    PutEndpoint,
    ReplayNotices,
    RotateEndpoint,
    TestEndpoint,
)
from schemas.events import Usage
from tests.simulation.model.accounts import Project
from tests.simulation.model.answers import Answer, Refused
from tests.simulation.model.burn_down import spend
from tests.simulation.model.identities import content_of
from tests.simulation.model.partition import Partition
from tests.simulation.model.prices import book_at
from tests.simulation.model.times import DAY_MS

_TERMS = ("target", "event_types", "environments", "is_ordered", "description")
_WRONG = {"kind": "fax", "target": "", "event_types": [], "state": "disabled"}


class Endpoint:
    """One endpoint: its kind, its terms by name, its state, and how many secrets it has had."""

    def __init__(self, command: PutEndpoint) -> None:
        self.kind = command.kind
        self.terms = {"event_types": ["*"], "environments": [], "is_ordered": False, "description": ""}
        self.state = command.state or "active"
        self.secrets = 1
        self.take(command)

    def take(self, command: PutEndpoint) -> bool:
        """Take the terms that a command has; says whether any is another than before."""
        given = {name: getattr(command, name) for name in _TERMS if getattr(command, name) is not None}
        before, self.terms = self.terms, self.terms | given
        return self.terms != before


def put_endpoint(partition: Partition, project: Project, command: PutEndpoint) -> Answer:
    if any(getattr(command, name) == value for name, value in _WRONG.items()):
        raise Refused("invalid_request")
    known = project.endpoints.get(command.endpoint_id)
    if not command.is_change:
        if known is not None:
            raise Refused("endpoint_exists")
        if len(project.endpoints) == 8:
            raise Refused("too_many_endpoints")
        if command.kind is None or command.target is None:
            raise Refused("invalid_request")
        project.endpoints[command.endpoint_id] = Endpoint(command)
        return partition.done(project, "endpoint", reason="created")._replace(status=201)
    known = _known(project, command.endpoint_id)
    if command.kind is not None and command.kind != known.kind:
        raise Refused("invalid_request")
    answer = _nothing(project)
    if known.take(command):
        answer = partition.done(project, "endpoint", reason="changed")
    if command.state is not None and command.state != known.state:
        known.state = command.state
        turned = partition.done(project, "endpoint", reason="resumed" if command.state == "active" else "paused")
        answer = answer if answer.entry_id else turned
    return answer


def do_to_endpoint(
    partition: Partition,
    project: Project,
    command: RotateEndpoint | DeleteEndpoint | DisableEndpoint | TestEndpoint | ReplayNotices,
) -> Answer:
    known = _known(project, command.endpoint_id)
    reason = "deleted"
    if isinstance(command, DeleteEndpoint):
        del project.endpoints[command.endpoint_id]
    elif isinstance(command, RotateEndpoint):
        if known.kind != "webhook":
            raise Refused("invalid_request")
        known.secrets += 1
        reason = "rotated"
    elif isinstance(command, DisableEndpoint):
        if known.state == "disabled":
            return _nothing(project)
        known.state = reason = "disabled"
    else:
        if known.state != "active":
            raise Refused("endpoint_inactive")
        reason = "tested"
        if isinstance(command, ReplayNotices):
            _check_replay(partition.now(project), command)
            reason = "replayed"
    return partition.done(project, "endpoint", reason=reason)


def bill_delivery(partition: Partition, project: Project, command: BillDelivery) -> Answer:
    """Charge a retry at the price of now; it costs nothing where there is not enough, or where it came before."""
    if not command.attempt_id:
        raise Refused("invalid_request")
    index, now_ms, environment = partition.index, partition.now(project), command.environment or "production"
    event = ("event", project.name, "/webhooks", command.attempt_id)
    if partition.is_seen(event):
        return Answer(200, "", 0, project.available(environment), "")
    book = book_at(partition, now_ms)
    cost = book.rates.get("webhook.delivery", 0)
    if cost > project.available(environment):
        cost = 0
    named = ("/webhooks", command.attempt_id, "webhook.delivery", 1, "", environment, now_ms, "", "", "")
    usage = Usage(project.name, b"", *named)
    fields = {"operation": usage.operation, "price_version": book.version}
    spend(partition, project, "charge", usage, 1, cost, **fields)
    partition.mark(event, content_of(usage))
    return partition.answer(project, environment, cost, index)


def _check_replay(now_ms: int, command: ReplayNotices) -> None:
    if command.notice_id:
        is_right = command.notice_id.startswith("ntc-") and not command.since_ms and not command.only_failed
    else:
        is_right = now_ms - 30 * DAY_MS <= command.since_ms <= now_ms
    if not is_right:
        raise Refused("invalid_request")


def _known(project: Project, endpoint_id: str) -> Endpoint:
    if endpoint_id not in project.endpoints:
        raise Refused("unknown_endpoint")
    return project.endpoints[endpoint_id]


def _nothing(project: Project) -> Answer:
    return Answer(200, "", 0, project.available("production"), "")
