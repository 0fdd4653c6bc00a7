"""The commands and programs in the README, in `docs/` and in ClickHouse's README all run, in the order in which they
are read, and print what their documents say. One `meterline up` serves them all. Pages of roles are read alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from schemas.notices import NOTICE_TYPES
from streams.core.plans import PLANS
from streams.settings import PROJECT_ROOT
from tests.calls import eventually
from tests.docs_blocks import (
    DEMO,
    READ_ALONE,
    READING_ORDER,
    ROLE_PAGES,
    TEST,
    UP,
    Block,
    Reader,
    blocks_of,
    documents,
    someone_new,
    table_of,
    text_of,
)

DOCUMENTS = documents()
LINES_MAX = 200
DOCS = "docs"
DECISIONS = "docs/decisions"
# Words that begin a command: a block of plain text must have none, since nothing runs it.
_COMMANDS = re.compile(
    r"^\s*(?:\$ |(?:curl|uv|uvx|pip|python3?|meterline|docker|clickhouse-client|export)\s)", re.MULTILINE
)

_DECISION = re.compile(r"docs/decisions/\d{4}")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of someone new."""
    return someone_new(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def reader(home: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A Reader of all documents, who reads each of them once, in order."""
    someone = Reader(home, tmp_path_factory.mktemp("reader"))
    try:
        yield someone
    finally:
        someone.close()


def test_the_main_job(home: dict[str, str]) -> None:
    assert bash_of("README.md")[0] == DEMO == "pip install uv && uv run meterline demo"
    done = subprocess.run(["bash", "-c", DEMO], cwd=PROJECT_ROOT, env=home, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for seen in ("44,317 events", "drift", "Balances of three projects", "by customer", '"out_of_credits"', "/docs"):
        assert seen in done.stdout
    for told in ("webhook.test", "project.credits_low", "project.credits_exhausted"):
        assert re.search(rf"^{re.escape(told)} ", done.stdout, re.MULTILINE), f"a receiver hears {told}, verified"


def test_the_test_command_is_the_one_ci_runs() -> None:
    assert bash_of("README.md")[1] == TEST == "pip install uv && uv run meterline test"
    assert TEST in ci_lines()
    collected = subprocess.run(
        # Collecting all there is takes long, and shows no more.
        [sys.executable, "-m", "api.cli", "test", "--collect-only", "-q", "--ignore-glob=*/tests/*/*"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert collected.returncode == 0
    assert "tests/test_readme.py::test_the_main_job" in collected.stdout


def test_the_first_charge_and_the_first_402(reader: Reader) -> None:
    assert bash_of("README.md")[2] == UP
    # The reader has compared the answers to a charge and to a refusal with those that the README shows.
    _, created, _, refused, reading = reader.read("README.md")
    assert json.loads(created)["plan"] == "free"
    assert json.loads(refused)["code"] == "out_of_credits"
    assert '"available":"4010"' in reading
    assert '"globex","website",1,1,240' in reading


def test_producers(reader: Reader) -> None:
    prices, sent, packed, _, produced = reader.read("docs/producers.md")
    assert {each["operation"] for each in json.loads(prices)["prices"]} >= {"image", "translation", "website"}
    assert json.loads(sent) == json.loads(packed) == {"accepted": 1, "rejected": 0, "errors": []}
    assert produced == "1000 acknowledged\n"
    # All 1,000 events are decided.
    sql = "SELECT count() FROM facts WHERE source = '/chat' AND kind IN ('charge', 'refusal')"
    eventually(lambda: reader.history(sql) == "1000\n")


def test_gateways(reader: Reader) -> None:
    job, created, asked, _, made, refused, chatted = reader.read("docs/gateways.md")
    assert asked.startswith("Top up, or upgrade: ") and asked.endswith("\n402 plan_required\n")
    assert chatted == "Hello from the model"
    assert '"outcome":"captured","credits":"37"' in job
    assert "social_post.text" in job
    # 4,010 and what the page before sent: a translation for 28, an image and 1,000 messages.
    assert "after         balance 2950, held 37, available 2913" in job
    assert json.loads(created)["project"] == "umbrella"
    assert made.startswith("HTTP/1.1 200 OK")
    assert "x-ratelimit-limit: 30\n" in made.lower().replace("\r", "")
    assert '{"url":"https://cdn.example/1.png"}' in made
    problem = json.loads(refused)
    assert (problem["status"], problem["code"]) == (402, "plan_required")

    def balance() -> tuple[str, str]:
        found = admin.get("/v1/balance", params={"project": "umbrella"}).json()
        return found["available"], found["held"]

    authorization = {"authorization": f"Bearer {reader.admin_key}"}
    with httpx.Client(base_url=reader.api_url, headers=authorization) as admin:
        eventually(lambda: balance() == ("214", "0"))


def test_webhooks(reader: Reader) -> None:
    assert set(table_of("docs/webhooks.md", "type")) == {f"`{name}`" for name in NOTICE_TYPES}
    # The reader has compared what the receiver verified with what the page shows.
    read = reader.read("docs/webhooks.md")
    _, rules, _, made, _, _, _, rotated, deliveries, replayed, slack, _ = read
    assert "500" in [each["threshold"] for each in json.loads(rules)["rules"]]
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", json.loads(made)["secret"])
    assert "whsec_" in rotated and json.loads(made)["secret"] not in rotated
    assert "webhook.test" in deliveries
    assert "entry_id" in replayed
    assert json.loads(slack)["target"].endswith("/…")
    eventually(lambda: "A test notice for acme" in reader.log_of("receiver:app"))


def test_dashboard(reader: Reader) -> None:
    made, led = reader.read("docs/dashboard.md")
    assert "content:read" in made or "mtl_live_acme." in made
    there = f"{reader.api_url}/dashboard/sign-in?next=%2Fdashboard%2Fledger%3Fkind%3Dcharge"
    assert led == f"303 {there}\n"
    key = re.search(r"mtl_live_[\w.-]+", made)
    assert key is not None
    with httpx.Client(base_url=reader.api_url, follow_redirects=True) as browser:
        page = browser.post("/dashboard/sign-in", data={"key": key[0], "next": "/dashboard/ledger?kind=charge"})
    assert (page.status_code, page.url.path) == (200, "/dashboard/ledger") and "acme" in page.text


def test_portal(reader: Reader) -> None:
    made, linked = reader.read("docs/portal.md")
    urls = [json.loads(made)["url"], *re.findall(r"http\S+", linked)]
    assert len(urls) == 2 and urls[0] != urls[1]
    for url in urls:
        page = httpx.get(url)
        assert page.status_code == 200 and "<button" in page.text, "who looks at a link has not opened it"


def test_clickhouse(reader: Reader) -> None:
    (queried,) = reader.read("clickhouse/README.md")
    assert "globex" in queried
    assert "┌" in queried, "a table drawn for people"
    assert "charge" in queried
    assert "acme" in reader.file("top.csv")


def test_every_block_was_run(reader: Reader) -> None:
    reader.read(READING_ORDER[-1])
    runnable = {each for name in READING_ORDER for each in blocks_of(name) if each.language != "text"}
    elsewhere = {each for each in runnable if each.text in (DEMO, TEST)}
    assert len(elsewhere) == 2, "the two that have a test of their own"
    assert reader.done == runnable - elsewhere


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_block_is_one_that_nothing_runs(document: str) -> None:
    assert faults_of(document, blocks_of(document)) == []


@pytest.mark.parametrize(
    ("text", "document", "is_run"),
    [
        ("```bash\necho 1\n```\n", "docs/producers.md", True),
        ("```sh\necho 1\n```\n", "docs/producers.md", False),
        ("```\ncurl http://127.0.0.1:8080\n```\n", "docs/producers.md", False),
        ("    ```bash\n    echo 1\n    ```\n", f"{DECISIONS}/0001-x.md", False),
        ("~~~bash\necho 1\n~~~\n", f"{DOCS}/unread.md", False),
        (f"```bash\n{TEST}\n```\n", "CONTRIBUTING.md", True),
        ("```python\nprint(1)\n```\n", "docs/producers.md", False),
        ("Put this into `a.py`:\n\n```python\nprint(1)\n```\n", "docs/producers.md", True),
        ("Put this into `a.py`:\n\n```python\nprint(1)\n```\n", "CONTRIBUTING.md", False),
        ("```json\n{}\n```\n", "docs/producers.md", False),
        ("```bash\necho {}\n```\n\n```json\n{}\n```\n", "docs/producers.md", True),
        ("```text\na ──▶ b\n```\n", f"{DOCS}/unread.md", True),
    ],
)
def test_a_block_that_nothing_runs_is_noticed(text: str, document: str, is_run: bool) -> None:
    assert (faults_of(document, blocks_of(document, text)) == []) == is_run


def test_all_of_docs_is_read() -> None:
    read = {*READING_ORDER, *READ_ALONE, *ROLE_PAGES.values()}
    assert {name for name in DOCUMENTS if re.fullmatch(r"docs/[^/]+\.md", name)} <= read


def test_the_readme_is_one_page_that_leads_to_the_others() -> None:
    readme = text_of("README.md")
    assert len(readme.splitlines()) <= LINES_MAX
    for name in (*(each for each in (*READING_ORDER, *READ_ALONE) if each.startswith("docs/")), "CONTRIBUTING.md"):
        assert len(re.findall(rf"^- \[{re.escape(name)}\]\({re.escape(name)}\): .+$", readme, re.MULTILINE)) == 1, name
    by_role = {role: page for role, (page, *_) in table_of("README.md", "you are").items()}
    assert by_role == {role: f"[{page}]({page})" for role, page in ROLE_PAGES.items()}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_named_exist(document: str) -> None:
    """Files named in backticks are looked for from the root, and a decision may be named by its number. Files in links
    are looked for from the document's own directory."""
    text = text_of(document)
    named = re.findall(r"`((?:streams|api|schemas|clickhouse|docs|tests)/[\w./-]*)`", text)
    assert [
        name for name in named if not any(PROJECT_ROOT.glob(f"{name}*" if _DECISION.fullmatch(name) else name))
    ] == []
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [name for name in linked if not (PROJECT_ROOT / document).parent.joinpath(name).exists()] == []


def test_every_decision_is_linked_from_the_internals() -> None:
    decisions = {name.removeprefix("docs/") for name in DOCUMENTS if name.startswith("docs/decisions/")}
    assert set(re.findall(r"\]\((decisions/[^)]+)\)", text_of("docs/internals.md"))) == decisions


def test_every_query_is_in_the_analysts_table() -> None:
    queries = {f"`clickhouse/queries/{path.name}`" for path in (PROJECT_ROOT / "clickhouse/queries").glob("*.sql")}
    assert set(table_of("docs/analysts.md", "query")) == queries


def test_the_tables_of_plans_say_what_plans_are() -> None:
    limits = {
        name: [
            f"{each:,}"
            for each in (plan.limits.requests_per_minute, plan.limits.burst, plan.limits.cost_ceiling // 10**6)
        ]
        for name, plan in PLANS.items()
    }
    assert table_of("docs/gateways.md", "plan") == limits
    credits = {
        name: [f"{plan.allowance // 10**6:,}", f"${plan.price_cents // 100:,}"]
        if name != "enterprise"
        else ["by contract", "by contract"]
        for name, plan in PLANS.items()
    }
    assert table_of("docs/finance.md", "plan") == credits


def bash_of(document: str) -> list[str]:
    """A document's commands, block by block."""
    return [each.text for each in blocks_of(document) if each.language == "bash"]


def ci_lines() -> set[str]:
    """The commands that CI runs."""
    return set((PROJECT_ROOT / ".ci" / "run").read_text().splitlines())


def faults_of(document: str, blocks: list[Block]) -> list[str]:
    """The blocks that no test runs, each with the reason."""
    faults: list[str] = []
    before = ""
    for block in blocks:
        is_read = document in {*READING_ORDER, *READ_ALONE, *ROLE_PAGES.values()}
        if block.language == "text":
            fault = "a command in a block of text" if _COMMANDS.search(block.text) else ""
        elif block.language == "bash":
            # Elsewhere than in the documents that are read, a command must be one that CI runs.
            is_run = is_read or set(filter(None, block.text.splitlines())) <= ci_lines()
            fault = "" if is_run else "no test runs these commands, and CI does not"
        elif block.language == "python":
            fault = "" if is_read and block.file_name else "Python that is put into no file"
        elif block.language == "json":
            fault = "" if is_read and before == "bash" else "JSON that no command prints"
        else:
            fault = f"a block of {block.language or 'no language'}: bash, python, json or text"
        if fault:
            faults.append(f"{block}: {fault}")
        before = block.language
    return faults
