"""The figures of `/metrics`, read from the running parts when they are asked for, and kept nowhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

if TYPE_CHECKING:
    from api.busyness import Busyness
    from api.connections import Connections
    from api.live_ledger import LiveLedger
    from api.services import Services
    from streams.cashier.purchases import Cashier


def registry_of(services: Services, connections: Connections, busyness: Busyness) -> CollectorRegistry:
    """A Prometheus registry with the figures of this process and of Meterline."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(_Parts(services))
    registry.register(_Connections(connections, busyness))
    return registry


class _Connections(Collector):
    def __init__(self, connections: Connections, busyness: Busyness) -> None:
        self._connections = connections
        self._busyness = busyness

    def collect(self) -> Iterator[Metric]:
        connections = self._connections
        lag_seconds = self._busyness.lag_ms / 1000
        yield GaugeMetricFamily("meterline_loop_lag_seconds", "How late this process's event loop is", lag_seconds)
        yield GaugeMetricFamily("meterline_connections", "HTTP connections that are open", connections.crowd.count)
        yield CounterMetricFamily(
            "meterline_connections_refused", "HTTP connections that there was no room for", connections.refused
        )
        ended = CounterMetricFamily(
            "meterline_connections_ended",
            "HTTP connections ended since the client took too long for this, or to make room",
            labels=["reason"],
        )
        for reason, count in connections.ended.items():
            ended.add_metric([reason], count)
        yield ended


class _Parts(Collector):
    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        services = self._services
        ready = GaugeMetricFamily("meterline_part_ready", "1 where this part can serve", labels=["part"])
        for part, is_ready in services.parts_ready().items():
            ready.add_metric([part], int(is_ready))
        yield ready
        lag = GaugeMetricFamily(
            "meterline_accounts_lag_seconds",
            "Age of the newest complete copy of a partition's accounts",
            labels=["partition"],
        )
        for partition, seconds in services.accounts.lags().items():
            lag.add_metric([str(partition)], seconds)
        yield lag
        yield from _flows(services)
        yield CounterMetricFamily(
            "meterline_refused_at_edge",
            "Requests that this process refused by itself, since their project's window was full",
            services.refusals.total,
        )
        yield CounterMetricFamily(
            "meterline_answers_not_kept",
            "Answers that a request's id does not lead to, since there were too many at once",
            services.answers.not_kept,
        )
        yield from _streams(services.live_ledger)
        if services.cashier is not None:
            yield from _purchases(services.cashier)
        drift = services.drift
        yield CounterMetricFamily(
            "meterline_verify_projects", "Balances that were found to agree with the history", drift.projects_checked
        )
        yield CounterMetricFamily("meterline_verify_passes", "Times that all projects were gone round", drift.passes)
        yield CounterMetricFamily("meterline_verify_failures", "Comparisons that could not be made", drift.failures)
        yield GaugeMetricFamily(
            "meterline_verify_drifting_projects", "Projects that do not agree", len(drift.drift_microcredits)
        )
        yield GaugeMetricFamily(
            "meterline_verify_drift_microcredits",
            "Sum of what balances and history differ by",
            sum(map(abs, drift.drift_microcredits.values())),
        )


def _flows(services: Services) -> Iterator[Metric]:
    now = time.monotonic()
    pipeline = services.pipeline
    records = GaugeMetricFamily(
        "meterline_lag_records", "Records of a topic that its readers have yet to take", labels=["topic"]
    )
    seconds = GaugeMetricFamily("meterline_lag_seconds", "How long the oldest of them has waited", labels=["topic"])
    still = GaugeMetricFamily("meterline_still_seconds", "How long none was taken while some wait", labels=["topic"])
    for name, flow in pipeline.flows.items():
        records.add_metric([name], flow.records)
        seconds.add_metric([name], flow.waiting_seconds(now))
        still.add_metric([name], flow.still_seconds(now))
    yield from (records, seconds, still)
    held_up = GaugeMetricFamily(
        "meterline_usage_held_up_seconds",
        "How long usage of a partition waits behind a transaction that a producer has left open",
        labels=["partition"],
    )
    for partition, held_seconds in pipeline.transactions.seconds(now).items():
        held_up.add_metric([str(partition)], held_seconds)
    yield held_up
    yield GaugeMetricFamily("meterline_workers", "Members of the workers' group", len(pipeline.members.now))
    yield CounterMetricFamily(
        "meterline_worker_starts",
        "Workers that joined since this process looks, and so were started",
        pipeline.members.joins,
    )
    letters = CounterMetricFamily("meterline_dead_letters", "Dead letters that history has", labels=["code"])
    for code, count in pipeline.dead_letters.items():
        letters.add_metric([code], count)
    yield letters
    kept = GaugeMetricFamily(
        "meterline_kept_replies_bytes",
        "Bytes on Kafka's disks, replicas included, of the changelog of a table of kept replies",
        labels=["table"],
    )
    for name, size in pipeline.kept_replies_bytes.items():
        kept.add_metric([name], size)
    yield kept
    yield GaugeMetricFamily("meterline_commands_waiting", "Commands without a reply yet", services.commands.waiting)
    decided = [at for at in (services.commands.answered_at, services.accounts.read_at) if at is not None]
    if decided:
        yield GaugeMetricFamily(
            "meterline_last_decision_age_seconds", "Since a decision was last seen here", now - max(decided)
        )


def _streams(ledger: LiveLedger) -> Iterator[Metric]:
    yield GaugeMetricFamily("meterline_ledger_streams", "Live ledgers that are open", ledger.count)
    yield GaugeMetricFamily(
        "meterline_ledger_streams_queued_bytes", "What waits to be told to their readers, about", ledger.queued_bytes
    )
    gaps = CounterMetricFamily(
        "meterline_ledger_stream_gaps", "Times that a live ledger was not told of all, and why", labels=["reason"]
    )
    for reason, count in ledger.gaps.items():
        gaps.add_metric([reason], count)
    yield gaps


def _purchases(cashier: Cashier) -> Iterator[Metric]:
    yield GaugeMetricFamily("meterline_purchases_waiting", "Bundles that are wanted and not yet paid", cashier.waiting)
    tries = CounterMetricFamily("meterline_purchases", "What became of tries to buy a bundle", labels=["outcome"])
    for outcome, count in (("paid", cashier.paid), ("failed", cashier.failed), ("unknown", cashier.unknown)):
        tries.add_metric([outcome], count)
    yield tries
