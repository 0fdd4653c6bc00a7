"""The lists of what a reader may use at the embedded ClickHouse's front. What they do not name is refused, also what a
new engine brings. The engine's own wall stands behind them: grants (clickhouse/embedded.xml) and readonly=1."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

MIB = 1024 * 1024

# Scalar and aggregate functions. Not among them: what reads files, dictionaries, headers or the machine, what sleeps,
# asks a model, or takes the name of a format or of a table as a string.
FUNCTIONS = frozenset((Path(__file__).parent / "functions.txt").read_text().lower().split())

TABLE_FUNCTIONS = frozenset(
    {"generaterandom", "generate_series", "generateseries", "null", "numbers", "numbers_mt", "primes", "values", "view"}
    | {"zeros", "zeros_mt"}
)

# Tables that tell of the schema and the engine. `processes` and the like would tell what others ask.
SYSTEM_TABLES = frozenset(
    {"aggregate_function_combinators", "build_options", "collations", "columns", "completions", "contributors"}
    | {"data_skipping_index_types", "data_skipping_indices", "data_type_families", "database_engines", "databases"}
    | {"documentation", "formats", "functions", "keywords", "licenses", "merges", "mutations", "numbers", "numbers_mt"}
    | {"one", "parts", "parts_columns", "primes", "projection_parts", "projections", "settings", "table_engines"}
    | {"table_functions", "tables", "time_zones", "zeros", "zeros_mt"}
)
DATABASES = frozenset({"default", "system", "information_schema", "INFORMATION_SCHEMA"})

# Formats that need nothing but the rows. Template, Protobuf and CapnProto read files; others speak a wire's protocol.
FORMATS = frozenset(
    """
    Arrow ArrowStream Avro BSONEachRow CSV CSVWithNames CSVWithNamesAndTypes HiveText JSON JSONColumns
    JSONColumnsWithMetadata JSONCompact JSONCompactColumns JSONCompactEachRow JSONCompactEachRowWithNames
    JSONCompactEachRowWithNamesAndTypes JSONCompactEachRowWithProgress JSONCompactStrings JSONCompactStringsEachRow
    JSONCompactStringsEachRowWithNames JSONCompactStringsEachRowWithNamesAndTypes JSONCompactStringsEachRowWithProgress
    JSONEachRow JSONEachRowWithProgress JSONL JSONLines JSONObjectEachRow JSONStrings JSONStringsEachRow
    JSONStringsEachRowWithProgress LineAsString LineAsStringWithNames LineAsStringWithNamesAndTypes MD Markdown MsgPack
    NDJSON Native Npy Null ODBCDriver2 ORC Parquet Pretty PrettyCompact PrettyCompactMonoBlock PrettyCompactNoEscapes
    PrettyCompactNoEscapesMonoBlock PrettyJSONEachRow PrettyJSONLines PrettyMonoBlock PrettyNDJSON PrettyNoEscapes
    PrettyNoEscapesMonoBlock PrettySpace PrettySpaceMonoBlock PrettySpaceNoEscapes PrettySpaceNoEscapesMonoBlock
    Raw RawBLOB RawWithNames RawWithNamesAndTypes RowBinary RowBinaryWithNames RowBinaryWithNamesAndTypes
    SQLInsert TSKV TSV TSVRaw TSVRawWithNames TSVRawWithNamesAndTypes TSVWithNames TSVWithNamesAndTypes TabSeparated
    TabSeparatedRaw TabSeparatedRawWithNames TabSeparatedRawWithNamesAndTypes TabSeparatedWithNames
    TabSeparatedWithNamesAndTypes Values Vertical XML
    """.lower().split()
)

# The most of each, which a client may lower. 0 is ClickHouse's word for no limit, so it is no lower one. What is None
# here has no limit of its own unless a client sets one.
LIMITS: Mapping[str, float | None] = {
    "max_execution_time": 300,
    "max_threads": max(2, os.cpu_count() or 1),
    "max_memory_usage": 512 * MIB,
    "max_result_rows": 50_000_000,
    "max_result_bytes": 256 * MIB,
    "max_rows_to_read": 10_000_000_000,
    "max_temporary_data_on_disk_size_for_query": 4096 * MIB,
    **dict.fromkeys(("max_bytes_before_external_group_by", "max_bytes_before_external_sort")),
    **dict.fromkeys(("max_estimated_execution_time", "timeout_before_checking_execution_speed")),
    **dict.fromkeys(("max_bytes_to_read", "max_rows_to_group_by", "max_rows_to_sort", "max_bytes_to_sort")),
    **dict.fromkeys(("max_rows_in_set", "max_bytes_in_set", "max_rows_in_join", "max_bytes_in_join")),
    **dict.fromkeys(("max_rows_in_distinct", "max_bytes_in_distinct", "max_columns_to_read", "max_block_size")),
}

# What is set for each reader's query before the settings of its own.
DEFAULTS: dict[str, str] = {
    "session_timezone": "UTC",
    # A failed query never looks like a short result.
    "result_overflow_mode": "throw",
} | {name: str(most) for name, most in LIMITS.items() if most is not None}
DEFAULTS["max_threads"] = str(max(1, (os.cpu_count() or 1) // 2))

_NUMBER = re.compile(r"\d{1,18}(\.\d{1,20})?")
_ON_OR_OFF = re.compile(r"[01]|true|false")
_COUNT = re.compile(r"\d{1,9}")
_WORD = re.compile(r"[A-Za-z_]{1,32}")
_ZONE = re.compile(r"[A-Za-z0-9_+\-/]{1,64}")
_SEPARATOR = re.compile(r"[ -~\t]")

# Settings that change how a value is understood or written, and can neither read nor write anything else.
SETTINGS: Mapping[str, re.Pattern[str]] = {
    "session_timezone": _ZONE,
    **dict.fromkeys(
        ("date_time_input_format", "date_time_output_format", "bool_true_representation", "bool_false_representation"),
        _WORD,
    ),
    **dict.fromkeys(
        (
            *(f"{what}_overflow_mode" for what in ("result", "read", "timeout", "group_by", "sort", "set", "join")),
            *("distinct_overflow_mode", "join_default_strictness", "union_default_mode"),
        ),
        _WORD,
    ),
    **dict.fromkeys(("limit", "offset", "output_format_pretty_max_rows"), _COUNT),
    **dict.fromkeys(("output_format_pretty_max_value_width", "output_format_pretty_max_column_pad_width"), _COUNT),
    **dict.fromkeys(("format_csv_delimiter",), _SEPARATOR),
    **dict.fromkeys(
        (
            *(
                "aggregate_functions_null_for_empty",
                "any_join_distinct_right_table_keys",
                "cast_keep_nullable",
                "cast_string_to_dynamic_use_inference",
            ),
            *("data_type_default_nullable", "extremes", "final", "group_by_use_nulls", "join_use_nulls"),
            *("prefer_column_name_to_alias", "transform_null_in", "output_format_decimal_trailing_zeros"),
            *("output_format_csv_crlf_end_of_line", "output_format_tsv_crlf_end_of_line"),
            *("output_format_json_array_of_rows", "output_format_json_escape_forward_slashes"),
            *("output_format_json_named_tuples_as_objects", "output_format_json_quote_64bit_floats"),
            *("output_format_json_quote_64bit_integers", "output_format_json_quote_decimals"),
            *("output_format_json_quote_denormals", "output_format_json_validate_utf8"),
            *("output_format_arrow_string_as_string", "output_format_parquet_string_as_string"),
            *("output_format_orc_string_as_string", "output_format_pretty_color", "output_format_pretty_row_numbers"),
            *("output_format_write_statistics", "output_format_native_use_flattened_dynamic_and_json_serialization"),
            *("output_format_native_write_json_as_string", "output_format_native_encode_types_in_binary_format"),
        ),
        _ON_OR_OFF,
    ),
}


class NotAllowed(Exception):
    """A reader's request uses what is not on the list; the message names it, and what is."""


def check_setting(name: str, value: str) -> None:
    """Check that a reader may set `name` to `value`. Raises NotAllowed."""
    if name in LIMITS:
        most = LIMITS[name]
        low = most is None or (_NUMBER.fullmatch(value) is not None and float(value) <= most)
        if not _NUMBER.fullmatch(value) or not float(value) or not low:
            upper = "" if most is None else f" up to {most:g}" if most < MIB else f" up to {most:.0f}"
            raise NotAllowed(f"Setting {name} can only be lowered here: give it a number above 0{upper}")
    elif name not in SETTINGS:
        raise NotAllowed(
            f"Cannot modify {name[:64]!r} setting here: only limits, time zone and how a result is written can be set"
        )
    elif not SETTINGS[name].fullmatch(value):
        raise NotAllowed(f"Setting {name} can't have this value here")


def lowered(name: str, value: str) -> str:
    """The value of a setting, or the most that it may be where it is above that."""
    most = LIMITS.get(name)
    return str(most) if most is not None and _NUMBER.fullmatch(value) and float(value) > most else value


def check_format(name: str) -> None:
    """Check that a reader may have its rows in this format. Raises NotAllowed."""
    if name.lower() not in FORMATS:
        raise NotAllowed(f"Format {name[:64]!r} is not given here: ask for TabSeparated, CSV, JSON, Native or Parquet")


class Unlisted(NamedTuple):
    """The names that the engine knows and a reader may not use."""

    functions: frozenset[str]
    table_functions: frozenset[str]
    system_tables: frozenset[str]
    settings: frozenset[str]


def is_known_setting(name: str, refused: Unlisted) -> bool:
    """Whether the engine has a setting of this name, allowed or not."""
    return name in LIMITS or name in SETTINGS or name in refused.settings


def refused_names(known: Callable[[str], list[str]]) -> Unlisted:
    """The engine's names that are not allowed. `known` runs a query of one column."""
    return Unlisted(
        frozenset(known("SELECT DISTINCT lower(name) FROM system.functions")) - FUNCTIONS,
        # `format` is both; the engine denies the table function.
        frozenset(known("SELECT lower(name) FROM system.table_functions")) - TABLE_FUNCTIONS - FUNCTIONS,
        frozenset(known("SELECT name FROM system.tables WHERE database = 'system'")) - SYSTEM_TABLES,
        frozenset(known("SELECT name FROM system.settings")) - LIMITS.keys() - SETTINGS.keys(),
    )
