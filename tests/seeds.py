"""The seeds of randomised runs: where they begin, and how many of them there are.

Each run counts its seeds from a new base, which its first lines tell; METERLINE_SEED_BASE sets the base, to repeat a
run. `meterline test` goes through a part of the seeds of `meterline test --deep`, which is a step of its own in CI.
"""

from __future__ import annotations

import os
import secrets

# Lanes are started with this environment, and so have the same base.
BASE = int(os.environ.setdefault("METERLINE_SEED_BASE", str(secrets.randbelow(10**9))))

# How many worlds are simulated. `--deep` asks for 1,000. A fifth as many more keep replies briefly.
WORLDS = int(os.environ.get("METERLINE_SIMULATION_SEEDS", "300"))
WORLDS_BRIEF_REPLIES = WORLDS // 5
# The seed of the only world to simulate, to see again what happens in it.
ONE_WORLD = os.environ.get("METERLINE_SIMULATION_SEED")
# So that two lanes share them: each part goes through every second world.
WORLD_PARTS = range(2) if ONE_WORLD is None else range(1)

# How many steps the ledger's state machine takes; with `--deep`, LEDGER_STEPS_DEEP.
LEDGER_STEPS_DEEP = 100_000
LEDGER_STEPS = int(os.environ.get("METERLINE_LEDGER_STEPS", "10000"))
LEDGER_PARTS = range(2)


def told() -> str:
    """The line that says which seeds this run has, and how to repeat it."""
    return f"seeds: from {BASE} on (METERLINE_SEED_BASE={BASE} repeats them)"
