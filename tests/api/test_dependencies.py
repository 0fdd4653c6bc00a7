"""Routes refuse with `not_ready` while the process's copy of the accounts is still being read."""

from types import SimpleNamespace
from typing import cast

import pytest

from api.callers.keys import new_project_key
from api.dependencies import account_for, caller_with
from api.services import Services
from schemas.problems import Rejection


def services(lag_ms: int) -> Services:
    """Services whose copy of the accounts is empty."""
    accounts = SimpleNamespace(lag_ms=lambda _project: lag_ms, get=lambda _project: None)
    return cast(Services, SimpleNamespace(accounts=accounts))


@pytest.mark.parametrize(("lag_ms", "code"), [(-1, "not_ready"), (0, "unknown_project")])
def test_a_project_is_unknown_only_once_the_copy_was_complete(lag_ms: int, code: str) -> None:
    with pytest.raises(Rejection) as refused:
        account_for(services(lag_ms), "prj_1")
    assert refused.value.code == code


@pytest.mark.parametrize(("lag_ms", "code"), [(-1, "not_ready"), (0, "unauthenticated")])
def test_a_key_is_refused_only_once_the_copy_was_complete(lag_ms: int, code: str) -> None:
    key, _ = new_project_key("prj_1", "production")
    with pytest.raises(Rejection) as refused:
        caller_with(services(lag_ms), key)
    assert refused.value.code == code
