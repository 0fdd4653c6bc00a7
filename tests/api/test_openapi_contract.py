"""The running service keeps to its OpenAPI document: whatever Schemathesis sends by it, no answer is a 500, and each is
as the document says. A 503 is an answer that the document names: not ready yet, ask again."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.generation.feedback import NO_FEEDBACK
from schemathesis.generation.hypothesis.builder import InvalidHeadersExampleMark, MissingPathParameters
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import create_app
from api.stack import Stack
from streams.embedded.broker import EmbeddedBroker
from streams.settings import Settings
from tests.calls import Operator

EXAMPLES = int(os.environ.get("METERLINE_OPENAPI_EXAMPLES", "4"))
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

schema = schemathesis.openapi.from_dict(create_app(Settings()).openapi())
OPERATIONS = {each.ok().label: each.ok() for each in schema.get_all_operations()}


@pytest.fixture(scope="module")
def operator(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator at a stack of its own: each rehearsal would go through all that other tests have left on theirs."""
    settings = Settings(
        kafka_url=broker.url,
        topic_prefix="contract",
        partitions=1,
        data_dir=tmp_path_factory.mktemp("contract"),
        api_port=0,
        clickhouse_front_port=0,
    )
    with Stack(settings) as stack:
        yield Operator(stack)


@pytest.fixture(scope="module")
def callers(operator: Operator) -> list[tuple[str, str]]:
    """Two callers, as (key, a project to name in paths): the operator, and a project whose limits are lifted."""
    project = operator.project("build")
    operator.lift_limits(project)
    mine = f"Bearer {operator.key(project)['key']}"
    return [(operator.http.headers["authorization"], operator.project("build")), (mine, project)]


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """One connection for thousands of calls, each of which would open its own, after a look at the environment."""
    with requests.Session() as kept:
        kept.trust_env = False
        yield kept


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_answer_is_as_it_is_documented(
    operation: str, operator: Operator, callers: list[tuple[str, str]], session: requests.Session
) -> None:
    # What `schema.parametrize()` would do while tests are collected, which every lane does: the cases take seconds.
    is_answered = build_operation_test(
        config=schema.config,
        operation=OPERATIONS[operation],
        test_func=answered_as_documented,
        given_kwargs={},
        feedback=NO_FEEDBACK,
    )
    is_answered(operator=operator, callers=callers, session=session)
    assert not MissingPathParameters.is_set(is_answered) and not InvalidHeadersExampleMark.is_set(is_answered)


@settings(
    max_examples=EXAMPLES,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
def answered_as_documented(
    case: schemathesis.Case, operator: Operator, callers: list[tuple[str, str]], session: requests.Session
) -> None:
    # The service rightly waits for an offset that is yet to come; this test does not want to.
    if isinstance(case.query.get("min_offset"), int):
        case.query["min_offset"] %= 3
    # Nor follow a ledger for longer than it has to.
    if case.operation.path.endswith("/stream"):
        case.query["seconds"] = 1
    for key, project in callers:
        case.headers["authorization"] = key
        if "project" in case.path_parameters:
            case.path_parameters["project"] = project
        response = case.call_and_validate(base_url=operator.url, checks=CHECKS, timeout=30, session=session)
        assert response.status_code != 500
