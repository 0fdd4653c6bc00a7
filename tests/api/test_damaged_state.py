"""Worker and API whose files are damaged come back by themselves, with every balance as it was."""

from collections.abc import Callable
from pathlib import Path

import httpx

from api.stack import Stack
from streams.kafka.topics import partition_of
from tests.calls import Operator, eventually


def garble_rows(directory: Path) -> None:
    """Change a byte in the first block of every table: the files open well, and show it when they are read."""
    for path in directory.rglob("*.sst"):
        content = bytearray(path.read_bytes())
        content[10] ^= 0xFF
        path.write_bytes(content)


def test_processes_with_damaged_files_rebuild_them(stack: Stack, operator: Operator) -> None:
    project = operator.project("free")
    partition = partition_of(project, stack.settings.partitions)
    files = {
        "worker-1": stack.settings.worker_dir / "tables" / "accounts" / str(partition),
        "api": stack.settings.api_dir / f"accounts-{partition}",
    }
    for member, path in files.items():
        stack.hold(member)
        garble_rows(path)
    for member in files:
        stack.let_go(member)

    def topped_up() -> bool:
        response = operator.http.post(
            f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 20}, headers={"idempotency-key": project}
        )
        return response.status_code == 201

    def available() -> str:
        response = operator.http.get("/v1/balance", params={"project": project})
        return response.json()["available"] if response.status_code == 200 else ""

    eventually(lambda: is_answered(topped_up), 60)
    eventually(lambda: is_answered(lambda: available() == "4250"), 60)
    eventually(lambda: operator.http.get("/readyz").status_code == 200, 60)
    stack.check()
    for member, path in files.items():
        assert list(path.parent.glob(f"{path.name}.damaged-*")), member


def is_answered(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except httpx.TransportError:
        return False
