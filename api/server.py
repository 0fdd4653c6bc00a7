"""The processes behind `meterline api`, `meterline cashier` and `meterline courier`, and how a process of ours runs
until its end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack

import uvicorn
import uvloop
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.courier_metrics import serve_courier_metrics
from api.ports import ByPort, metrics_app
from streams.cashier.payments import payments_of
from streams.cashier.purchases import Cashier
from streams.collector import tune_collector
from streams.courier.courier import Courier
from streams.courier.outgoing import Senders
from streams.errors import OperatorError
from streams.kafka.command_client import CommandClient
from streams.kafka.publisher import Publisher
from streams.kafka.stored import check_stored
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import topics_of
from streams.open_files import OPEN_FILES_OWN, raise_open_files
from streams.settings import Settings
from streams.state.accounts_view import AccountsView
from streams.worker.membership import leave_for_predecessor, lock

log = logging.getLogger(__name__)


def run_api(settings: Settings) -> None:
    """Serve the API until SIGTERM or SIGINT."""
    # The other processes start without all of the API's routes.
    from api.app import create_app

    app = create_app(settings, connections_max=raise_open_files() - OPEN_FILES_OWN)
    # Figures are the operator's: they have a port of their own, which strangers do not reach.
    metrics = listen(settings.metrics_host, settings.metrics_port)
    sockets = [listen(settings.api_host, settings.api_port), metrics]
    started = _Start(ByPort(app, {metrics.getsockname()[1]: metrics_app(app.state)}))
    config = uvicorn.Config(
        started,
        http=app.state.connections.protocol(),
        # An upgraded connection would be out of all limits.
        ws="none",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        # uvicorn would believe any X-Forwarded-For from this host; METERLINE_TRUSTED_PROXIES says whom to believe.
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
    tune_collector()
    try:
        uvicorn.Server(config).run(sockets=sockets)
    except SystemExit:
        if started.failure is not None:
            raise started.failure from None
        raise


class _Start:
    """An ASGI app that keeps the `failure` of its start for its caller, where Starlette would log a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.failure: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_trace(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                message["message"] = ""
            await send(message)

        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send_without_trace)
        except Exception as error:
            self.failure = error


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to this address. Raises OperatorError where that can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise OperatorError(f"Port {port} of {host} can't be used: {error.strerror}") from None
    return listening


def run_cashier(settings: Settings) -> None:
    """Make the purchases that auto-recharge wants until SIGTERM or SIGINT."""
    if settings.payments == "local":
        log.warning("METERLINE_PAYMENTS is local: credits are given, and money is only pretended to be taken")
    raise_open_files()
    tune_collector()
    asyncio.run(_buy(settings))


async def _buy(settings: Settings) -> None:
    await create_topics(settings)
    await check_stored(settings, "journal", "replies")
    publisher = Publisher(settings)
    commands = CommandClient(settings, publisher)
    await publisher.start()
    try:
        await commands.start()
        try:
            cashier = Cashier(settings, payments_of(settings), publisher, commands)
            await until_one_ends([asyncio.create_task(cashier.run())])
        finally:
            await commands.stop()
    finally:
        await publisher.stop()


def run_courier(settings: Settings) -> None:
    """Deliver notices to endpoints until SIGTERM or SIGINT. Raises OperatorError where another courier has its name."""
    with lock(settings.courier_dir, "courier"):
        settings.courier_dir.mkdir(parents=True, exist_ok=True)
        raise_open_files()
        tune_collector()
        uvloop.run(_deliver(settings))


async def _deliver(settings: Settings) -> None:
    senders = Senders(settings)
    await create_topics(settings)
    await check_stored(settings, "accounts", "journal", "replies", "deliveries")
    await leave_for_predecessor(settings, settings.courier_dir, topics_of(settings).courier_group)
    publisher = Publisher(settings)
    commands = CommandClient(settings, publisher)
    accounts = AccountsView(settings, settings.courier_dir / "accounts")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(senders.close)
        await publisher.start()
        stack.push_async_callback(publisher.stop)
        await commands.start()
        stack.push_async_callback(commands.stop)
        stack.push_async_callback(accounts.stop)
        await accounts.start()
        courier = Courier(settings, senders, publisher, commands, accounts)
        if settings.courier_metrics_port is not None:
            serve_courier_metrics(settings, courier)
        await until_one_ends([asyncio.create_task(courier.run())])


async def until_one_ends(tasks: Sequence[asyncio.Task[None]]) -> None:
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
