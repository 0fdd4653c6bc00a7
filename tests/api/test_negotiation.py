"""Accept is read as RFC 9110 says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.negotiation import preferred
from schemas.problems import Rejection
from tests.calls import Operator

JSON, CSV, HTML = OFFERED = ("application/json", "text/csv", "text/html")


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("text/csv", CSV),
        ("TEXT/CSV", CSV),
        ("text/html, application/json;q=0.9", HTML),
        ("application/json;q=0.5, text/csv; q=0.9", CSV),
        ("text/csv;q=0, */*", JSON),
        ("application/json;q=0, */*", CSV),
        ("application/json;q=0, text/csv;q=0.0, */*;q=0.1", HTML),
        ("text/*", CSV),
        ("text/*, text/csv;q=0.5", HTML),
        ("text/*;q=0, application/*", JSON),
        ("*/*, text/csv;q=0.999", JSON),
        ("text/csv, */*", CSV),
        ("text/csv, application/json", CSV),
        ("application/json, text/plain, */*", JSON),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", HTML),
        ("text/csv;header=present", CSV),
        ('text/csv;x="a,application/json;q=1";q=0.1, text/html;q=0.2', HTML),
        ("text/csv;q=nonsense", JSON),
        ("text/csv;q=2, text/html", HTML),
        ("text/csv;q=0.1234, text/html", HTML),
        (" , ,text/csv ; Q=0.5 , ", CSV),
        ("nonsense", JSON),
        (";", JSON),
    ],
)
def test_accept_chooses(accept: str, wanted: str) -> None:
    assert preferred(accept, OFFERED) == wanted


@pytest.mark.parametrize(
    "accept", ["image/png", "*/*;q=0", "text/csv;q=0", "application/*;q=0, text/*;q=0.000", "text/plain"]
)
def test_what_accepts_nothing_that_is_offered_is_refused_with_what_there_is(accept: str) -> None:
    with pytest.raises(Rejection) as refused:
        preferred(accept, OFFERED)
    assert (refused.value.code, refused.value.status, refused.value.field) == ("not_acceptable", 406, "Accept")
    assert all(each in refused.value.detail for each in OFFERED)


parts = st.sampled_from(
    [*OFFERED, "text/*", "*/*", ",", ";", "q=", "0", "1", "0.5", '"', "\\", "=", " ", "/", "*", "é"]
)


@given(st.one_of(st.lists(parts, max_size=30).map("".join), st.text(max_size=100)))
def test_any_accept_is_answered(accept: str) -> None:
    try:
        assert preferred(accept, OFFERED) in OFFERED
    except Rejection as refused:
        assert refused.code == "not_acceptable"


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/audit", "/v1/audit/keys", "/v1/invoices/2026-01"])
def test_accept_chooses_wherever_there_is_a_choice(operator: Operator, path: str) -> None:
    _, client = operator.customer()

    def got(*accept: str, **params: str) -> str:
        response = client.get(path, headers=[("accept", each) for each in accept], params=params)
        return response.headers["content-type"].partition(";")[0] if response.is_success else response.json()["code"]

    assert got("*/*") == JSON
    assert got("text/csv") == got("text/csv;q=0.5", "application/json;q=0.4") == CSV
    assert got("text/csv;q=0, */*") == JSON
    assert got("image/png") == "not_acceptable"
    assert got("image/png", format="csv") == CSV
