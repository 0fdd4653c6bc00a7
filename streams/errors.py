"""Errors that end a command with one clear line."""

from __future__ import annotations


class OperatorError(Exception):
    """An error that whoever runs Meterline has to put right; the message says what and how."""
