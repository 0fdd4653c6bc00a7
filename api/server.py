"""The processes behind `meterline api`, `meterline historian` and `meterline cashier`."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from api.app import create_app
from api.services import historians_of
from streams.cashier.payments import payments_of
from streams.cashier.purchases import Cashier
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.collector import tune_collector
from streams.embedded.clickhouse_front import create_front
from streams.errors import OperatorError
from streams.kafka.command_client import CommandClient
from streams.kafka.publisher import Publisher
from streams.kafka.topics import create_topics
from streams.settings import Settings

log = logging.getLogger(__name__)


def run_api(settings: Settings) -> None:
    """Serve the API until SIGTERM or SIGINT. With the embedded ClickHouse, serve its HTTP front too, on a port of its
    own."""
    app = create_app(settings)
    sockets = [_listen(settings.api_host, settings.api_port)]
    served: ASGIApp = app
    if settings.clickhouse_url is None:
        # The front listens on loopback only: it is for the analyst at this machine, and asks for no key.
        sockets.append(_listen("127.0.0.1", settings.clickhouse_front_port))
        served = _ByPort(app, settings.clickhouse_front_port)
    config = uvicorn.Config(
        served,
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        # uvicorn would believe any X-Forwarded-For from this host; METERLINE_TRUSTED_PROXIES says whom to believe.
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
    tune_collector()
    uvicorn.Server(config).run(sockets=sockets)


class _ByPort:
    """An ASGI app that serves ClickHouse's front on `front_port`, and the API on every other port."""

    def __init__(self, api: FastAPI, front_port: int) -> None:
        self._api = api
        self._front_port = front_port
        self._front: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["server"][1] == self._front_port:
            if self._front is None:
                self._front = create_front(self._api.state.services.clickhouse)
            await self._front(scope, receive, send)
        else:
            await self._api(scope, receive, send)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise OperatorError(f"Port {port} of {host} can't be used: {error.strerror}") from None
    return listening


def run_historian(settings: Settings) -> None:
    """Write the journal and the dead letters into ClickHouse until SIGTERM or SIGINT."""
    tune_collector()
    asyncio.run(_write_history(settings))


async def _write_history(settings: Settings) -> None:
    await create_topics(settings)
    clickhouse = await asyncio.to_thread(ClickHouse, settings)
    try:
        await asyncio.to_thread(migrate, clickhouse)
        tasks = [asyncio.create_task(each.run()) for each in historians_of(settings, clickhouse)]
        await _until_one_ends(tasks)
    finally:
        await asyncio.to_thread(clickhouse.close)


def run_cashier(settings: Settings) -> None:
    """Make the purchases that auto-recharge wants until SIGTERM or SIGINT."""
    if settings.payments == "local":
        log.warning("METERLINE_PAYMENTS is local: credits are given, and money is only pretended to be taken")
    tune_collector()
    asyncio.run(_buy(settings))


async def _buy(settings: Settings) -> None:
    await create_topics(settings)
    publisher = Publisher(settings)
    commands = CommandClient(settings, publisher)
    await publisher.start()
    try:
        await commands.start()
        try:
            cashier = Cashier(settings, payments_of(settings), publisher, commands)
            await _until_one_ends([asyncio.create_task(cashier.run())])
        finally:
            await commands.stop()
    finally:
        await publisher.stop()


async def _until_one_ends(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Run these tasks until a signal, or until one of them ends. Then all end, and the process with them; after a
    failure its supervisor starts it afresh."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: [task.cancel() for task in tasks])
    done, running = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
