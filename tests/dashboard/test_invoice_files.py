"""An invoice of the dashboard as a file and as a page to print: those that the API gives."""

from __future__ import annotations

import httpx

from tests.calls import Operator
from tests.dashboard.story import Story


def test_an_invoice_is_passed_on_as_the_api_gives_it(operator: Operator, story: Story) -> None:
    whose = {"billing_account": story.billing_account}
    with httpx.Client(base_url=operator.http.base_url, timeout=30.0) as browser:
        browser.post("/dashboard/sign-in", data={"key": story.admin_key})
        url = f"/v1/admin/billing-accounts/{story.billing_account}/invoices/{story.month}"
        for name, kind in (("csv", "text/csv"), ("page", "text/html")):

            def given(kind: str = kind) -> int:
                answer = operator.http.get(url, headers={"accept": kind})
                assert answer.status_code == 200, answer.text
                return len(answer.text.splitlines())

            before = given()
            shown = browser.get(f"/dashboard/invoices/{story.month}/{name}", params=whose)
            assert shown.status_code == 200, shown.text
            assert shown.headers["content-type"].startswith(kind)
            assert story.project in shown.text
            # The hour of making differs, and nothing else; but the month goes on meanwhile.
            assert len(shown.text.splitlines()) in {before, given()}
    with httpx.Client(base_url=operator.http.base_url) as nobody:
        assert nobody.get(f"/dashboard/invoices/{story.month}/csv", params=whose).status_code == 303
