"""Fixtures that the tests of the embedded engine's front share: a small table, and the front's URL."""

from __future__ import annotations

import pytest

from streams.clickhouse.client import ClickHouse
from streams.embedded.clickhouse_front import create_front
from tests.engine import Serve


@pytest.fixture
def table(embedded: ClickHouse) -> str:
    embedded.command("CREATE TABLE facts (id UInt64, name LowCardinality(String)) ENGINE = MergeTree ORDER BY id")
    embedded.command("INSERT INTO facts VALUES (1, 'a'), (2, 'b')")
    return "facts"


@pytest.fixture(scope="module")
def url(engine: ClickHouse, serve: Serve) -> str:
    return serve(create_front(engine))
