"""A service that embeds us imports `streams.client`, and loads nothing that only our own processes need."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("faust", "mode", "chdb", "clickhouse_connect", "rocksdict", "fastapi")


def test_a_service_that_embeds_us_loads_neither_faust_nor_clickhouse_nor_rocksdb_nor_fastapi() -> None:
    program = "import sys, streams.client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "streams" in loaded
    assert loaded.isdisjoint(HEAVY)
