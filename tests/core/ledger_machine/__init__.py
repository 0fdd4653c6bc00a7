"""The ledger machine: every command in any order, against the model of `tests/simulation`."""

import pytest

# So that its assertions say what differs, as those of a test file do.
pytest.register_assert_rewrite("tests.core.ledger_machine.partition")
