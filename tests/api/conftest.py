"""An operator at the session's stack."""

import pytest

from api.stack import Stack
from tests.api.client import Operator


@pytest.fixture(scope="session")
def operator(stack: Stack) -> Operator:
    return Operator(stack)
