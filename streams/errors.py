"""The errors that end a command with one clear line."""

from __future__ import annotations


class OperatorError(Exception):
    """Something that whoever runs Meterline has to put right; the message names what and how."""
