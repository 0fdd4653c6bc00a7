"""Errors that end a command with one clear line."""

from __future__ import annotations


class OperatorError(Exception):
    """An error that whoever runs Meterline has to put right; the message says what and how."""


class LastingError(OperatorError):
    """An error that lasts until somebody puts it right, as the message says: to start again does not help."""


# The exit code of a process that ended with a LastingError (EX_CONFIG): supervisors need not start it again.
EXIT_LASTING = 78
