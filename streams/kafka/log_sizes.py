"""Log sizes: the bytes that topics take on the brokers' disks, for which aiokafka's admin client has no call."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Int64, Schema, String

_API_KEY = 35


class _DescribeLogDirsResponse(Response):  # type: ignore[misc]
    API_KEY = _API_KEY
    API_VERSION = 1
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "log_dirs",
            Array(
                ("error_code", Int16),
                ("log_dir", String("utf-8")),
                (
                    "topics",
                    Array(
                        ("topic", String("utf-8")),
                        (
                            "partitions",
                            Array(("partition", Int32), ("size", Int64), ("offset_lag", Int64), ("is_future", Boolean)),
                        ),
                    ),
                ),
            ),
        ),
    )


class _DescribeLogDirsRequestStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = _API_KEY
    API_VERSION = 1
    RESPONSE_TYPE = _DescribeLogDirsResponse
    SCHEMA = Schema(("topics", Array(("topic", String("utf-8")), ("partitions", Array(Int32)))))


class _DescribeLogDirsRequest(Request[_DescribeLogDirsRequestStruct]):  # type: ignore[misc]
    API_KEY = _API_KEY

    def __init__(self, topics: list[tuple[str, list[int]]]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_DescribeLogDirsRequestStruct]) -> _DescribeLogDirsRequestStruct:
        return request_struct_class(self._topics)


async def log_bytes(admin: AIOKafkaAdminClient, topics: Sequence[str], partitions: int) -> dict[str, int]:
    """The bytes of each topic on the disks of all brokers together, replicas included.

    Topics are missing of which a broker does not tell: that takes the right to describe the cluster. Raises KafkaError.
    """
    wanted = [(topic, list(range(partitions))) for topic in topics]
    brokers = [broker["node_id"] for broker in (await admin.describe_cluster())["brokers"]]
    answers: list[Any] = await asyncio.gather(
        *(admin._send_request(_DescribeLogDirsRequest(wanted), broker) for broker in brokers)
    )
    found: Counter[str] = Counter()
    for answer in answers:
        for _error, _directory, of_topics in answer.log_dirs:
            for topic, of_partitions in of_topics:
                found[topic] += sum(size for _partition, size, _lag, _is_future in of_partitions)
    return dict(found)
