"""Failures of a command, told in one sentence with the remedy instead of a traceback."""

from __future__ import annotations

import logging
import sqlite3
import traceback
from urllib.parse import urlsplit

import httpx
import msgspec

from streams.errors import OperatorError
from streams.settings import Settings
from streams.space import no_space


def sentence_of(error: Exception) -> str:
    """The sentence that says what failed and what to do; METERLINE_LOG_LEVEL=DEBUG prints the traceback too."""
    if isinstance(error, OperatorError):
        return str(error)
    settings = _settings()
    if logging.getLogger().isEnabledFor(logging.DEBUG) or settings.log_level == "DEBUG":
        traceback.print_exception(error)
    return (
        no_space(error, settings.data_dir)
        or _of_kafka(error, settings)
        or _of_clickhouse(error, settings)
        or _of_system(error)
        or f"{type(error).__name__}: {error}. This is a fault of Meterline's: METERLINE_LOG_LEVEL=DEBUG shows where"
    )


def _settings() -> Settings:
    try:
        return Settings()
    except Exception:
        return Settings.model_construct()


def _of_kafka(error: Exception, settings: Settings) -> str | None:
    from aiokafka import errors

    where = f"Kafka at {settings.kafka_url}" if settings.kafka_url else "Kafka"
    if isinstance(error, errors.KafkaConnectionError | errors.RequestTimedOutError | errors.NodeNotReadyError):
        return f"{where} does not answer. Is it running, and METERLINE_KAFKA_URL right?"
    if isinstance(
        error,
        errors.TopicAuthorizationFailedError
        | errors.GroupAuthorizationFailedError
        | errors.ClusterAuthorizationFailedError,
    ):
        return f"{where} does not let this user do that: {error}. `meterline topics --acls` prints who needs what"
    if isinstance(error, errors.AuthenticationFailedError | errors.UnsupportedSaslMechanismError):
        return f"{where} does not know this user: {error}. See METERLINE_KAFKA_SASL_USERNAME and …_PASSWORD"
    if isinstance(error, errors.KafkaError):
        why = f"{type(error).__name__} {error}".partition("\n")[0].strip()
        return f"{where} failed: {why}. Try again once it is healthy; `meterline doctor` checks it"
    return None


def _of_clickhouse(error: Exception, settings: Settings) -> str | None:
    from clickhouse_connect.driver import exceptions

    if not isinstance(error, exceptions.Error):
        return None
    where = "the embedded ClickHouse"
    if settings.clickhouse_url:
        # The address alone: the URL has the password.
        parts = urlsplit(settings.clickhouse_url)
        where = f"ClickHouse at {parts.hostname}:{parts.port or ''}"
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, exceptions.OperationalError):
        return f"{where} does not answer: {first_line}. Is it running, and METERLINE_CLICKHOUSE_URL right?"
    return f"{where} refused: {first_line}. `meterline migrate` brings its schema up to date"


def _of_system(error: Exception) -> str | None:
    if isinstance(error, PermissionError):
        return f"{error.filename or 'a file'} may not be used by this user: {error.strerror}. See METERLINE_DATA_DIR"
    if isinstance(error, httpx.HTTPError):
        return f"the API can't be asked: {error}. Is it running, and METERLINE_API_URL right?"
    if isinstance(error, TimeoutError):
        return (
            f"no answer in time: {error or 'a part is slow or away'}. Try again; `meterline doctor` says what is away"
        )
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}"
    if isinstance(error, sqlite3.Error):
        return f"a local file can't be used: {error}. See METERLINE_DATA_DIR"
    if isinstance(error, msgspec.DecodeError):
        return f"what is stored can't be read: {error}. Is it of another version of Meterline?"
    return None
