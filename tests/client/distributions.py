"""Environments of their own for the client's distribution, of the versions that this repository is locked to."""

from __future__ import annotations

import subprocess
from pathlib import Path

from streams.settings import PROJECT_ROOT


def constraints(path: Path) -> Path:
    """A file with the versions that this repository is locked to, so that an environment is made of what is here."""
    command = ["uv", "export", "-q", "--frozen", "--no-hashes", "--no-emit-project", "--output-file", str(path)]
    subprocess.run(command, cwd=PROJECT_ROOT, check=True, capture_output=True)
    return path


def environment_of(directory: Path, locked: Path, *requirements: str) -> Path:
    """A new environment with these requirements and nothing else; gives its Python. What uv has kept is used, and the
    package index only asked where that does not do."""
    subprocess.run(["uv", "venv", "-q", "--no-config", str(directory)], check=True, capture_output=True)
    command = ["uv", "pip", "install", "-q", "--no-config", "--python", str(directory), "-c", str(locked)]
    if subprocess.run([*command, "--offline", *requirements], capture_output=True).returncode:
        done = subprocess.run([*command, *requirements], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return directory / "bin/python"
