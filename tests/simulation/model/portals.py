"""Portal links: opened once each, and all ended at once."""

from __future__ import annotations

from schemas.commands import EndPortals, OpenPortal
from tests.simulation.model.accounts import Project
from tests.simulation.model.answers import Answer, Refused
from tests.simulation.model.partition import Partition
from tests.simulation.model.past import must_be_open


def open_or_end_portals(partition: Partition, project: Project, command: OpenPortal | EndPortals) -> Answer:
    if isinstance(command, EndPortals):
        project.portals_end = partition.offset
        return partition.done(project, "portal", reason="ended")
    must_be_open(project)
    if not command.idempotency_key:
        raise Refused("invalid_request")
    if partition.now(project) >= command.expires_at_ms:
        raise Refused("portal_link_expired")
    if project.portals_end is not None and command.known_offset < project.portals_end:
        raise Refused("portal_ended")
    return partition.done(project, "portal", command.environment, reason="opened")._replace(status=201)
