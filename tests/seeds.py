"""The seeds of randomised runs: where they begin, and how many of them there are.

A run takes its seeds from a new base on, which its first lines tell; METERLINE_SEED_BASE repeats it. `meterline test`
goes through a part of what `meterline test --deep` does, which is a step of its own in CI.
"""

from __future__ import annotations

import os
import secrets

# Lanes are started with this environment, and so have the same base.
BASE = int(os.environ.setdefault("METERLINE_SEED_BASE", str(secrets.randbelow(10**9))))

# Simulated worlds; beside them a fifth as many that keep few replies. `--deep` asks for 2,000.
WORLDS = int(os.environ.get("METERLINE_SIMULATION_SEEDS", "300"))
WORLDS_FEW_REPLIES = WORLDS // 5
# One world, to see again what it does.
ONE_WORLD = os.environ.get("METERLINE_SIMULATION_SEED")
# So that two lanes share them: each part goes through every second world.
WORLD_PARTS = range(2) if ONE_WORLD is None else range(1)

# Steps of the ledger's state machine. `--deep` asks for all of them.
LEDGER_STEPS_DEEP = 100_000
LEDGER_STEPS = int(os.environ.get("METERLINE_LEDGER_STEPS", "10000"))
LEDGER_PARTS = range(2)


def told() -> str:
    """A line for whoever wants to repeat this run."""
    return f"seeds: from {BASE} on (METERLINE_SEED_BASE={BASE} repeats them)"
