"""A bare route: a FastAPI app whose one route gives a constant answer, served as our API is. This module, run, is its
process."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.responses import Response

from streams.collector import tune_collector
from streams.embedded import lifeline
from tests.benchmarks.rivals.rival import write_note

ADDRESS = "address"


def _app(answer: bytes) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/balance")
    async def balance() -> Response:
        return Response(answer, media_type="application/json")

    return app


def _serve(directory: Path, answer: bytes) -> None:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        _app(answer), loop="uvloop", http="httptools", ws="none", log_config=None, access_log=False, proxy_headers=False
    )
    tune_collector()
    write_note(directory, ADDRESS, f"127.0.0.1:{listening.getsockname()[1]}")
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    lifeline.watch()
    _serve(Path(sys.argv[3]), sys.argv[4].encode())
