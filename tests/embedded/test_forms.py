"""Forms, in which drivers send long parameters, mean at the front what they mean at ClickHouse, and no more."""

from __future__ import annotations

from urllib.parse import urlsplit

import clickhouse_connect
import httpx
import pytest

from streams.embedded.front.forms import FIELDS_MAX, BadForm, fields_of


def form(**fields: str) -> tuple[bytes, str]:
    request = httpx.Request("POST", "http://localhost/", files={name: (None, value) for name, value in fields.items()})
    return request.read(), request.headers["content-type"]


def ask(url: str, params: dict[str, str] | None = None, **fields: str) -> httpx.Response:
    body, content_type = form(**fields)
    return httpx.post(url, params=params, content=body, headers={"content-type": content_type})


def test_the_driver_asks_with_parameters_that_no_url_has_room_for(url: str, table: str) -> None:
    address = urlsplit(url)
    client = clickhouse_connect.get_client(host=address.hostname, port=address.port)
    names = [f"{number}-äöü\t'\\{'x' * 200}" for number in range(500)]
    asked = {"names": names, "id": 2}
    sql = "SELECT length({names:Array(String)}), {names:Array(String)}[7], count() FROM facts WHERE id = {id:UInt32}"
    assert list(client.query(sql, parameters=asked).result_rows) == [(500, names[6], 1)]


@pytest.mark.parametrize("sql", ["DROP TABLE facts", "SELECT * FROM url('http://127.0.0.1/')", "SET max_threads = 99"])
def test_a_form_may_ask_no_more_than_text(url: str, table: str, sql: str) -> None:
    assert ask(url, query=sql).status_code in (400, 403)
    assert ask(url, query="SELECT {sql:String} FORMAT TSVRaw", param_sql=sql).text.strip() == sql


@pytest.mark.parametrize("field", ["max_memory_usage", "user", "password", "default_format", "", "param", "x"])
def test_a_form_has_a_query_and_parameters_and_nothing_else(url: str, field: str) -> None:
    answer = ask(url, **{"query": "SELECT 1", field: "1"})
    assert answer.status_code == 400 and "no field" in answer.text


def test_no_name_is_given_twice(url: str) -> None:
    answer = ask(url, {"query": "SELECT 1"}, query="SELECT 2")
    assert answer.status_code == 400 and "both have 'query'" in answer.text
    part = b'--x\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT 1\r\n'
    assert fields_of(part + b"--x--\r\n", "multipart/form-data; boundary=x") == {"query": "SELECT 1"}
    with pytest.raises(BadForm, match="twice"):
        fields_of(part * 2 + b"--x--\r\n", "multipart/form-data; boundary=x")


def test_what_is_no_form_is_told(url: str) -> None:
    body, content_type = form(query="SELECT 1", param_a="x")
    many = form(**{f"param_{number}": "x" for number in range(FIELDS_MAX + 1)})
    file = httpx.Request("POST", "http://localhost/", files={"query": ("query.sql", b"SELECT 1")})
    for content, kind in (
        (body[:-9], content_type),
        (body[9:], content_type),
        (body, "multipart/form-data"),
        (body, "multipart/mixed; boundary=x"),
        (b"", content_type),
        (body.replace(b"SELECT", b"SEL\xffCT"), content_type),
        (body.replace(b"form-data", b"attachment"), content_type),
        many,
        (file.read(), file.headers["content-type"]),
    ):
        answer = httpx.post(url, content=content, headers={"content-type": kind})
        assert answer.status_code == 400 and "DB::Exception" in answer.text, (kind, answer.text)
