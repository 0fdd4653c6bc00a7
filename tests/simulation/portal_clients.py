"""Portal links: what whoever opens or ends them asks next."""

from __future__ import annotations

import random
from typing import Any

from schemas.commands import EndPortals, OpenPortal


def next_of_portals(
    seed: object, newest_offset: int, now_ms: int
) -> tuple[type[OpenPortal | EndPortals], dict[str, Any]]:
    """A command and its fields: a link is opened that was made now or before, or all are ended. It may be refused."""
    rng = random.Random(f"portals of {seed}")
    if rng.random() < 0.4:
        return EndPortals, {"reason": ""}
    return OpenPortal, {
        "environment": rng.choice(["production", "preview"]),
        "session_id": f"s{rng.randrange(9)}",
        "customer_sha256": rng.choice(["", "c"]),
        "known_offset": max(0, newest_offset - rng.choice([0, 0, 3, 30])),
        "expires_at_ms": now_ms + rng.choice([900_000, 900_000, 900_000, 0, -1]),
    }
