"""The operator's commands against the running stack: each does what it says, and prints the outcome."""

import json
import re
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from typer.testing import CliRunner

from api.cli.main import app
from api.cli.service import Api
from api.stack import Stack
from tests.calls import Operator, eventually

Run = Callable[..., Any]


@pytest.fixture
def run(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs a command on the running stack and returns its JSON."""
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))

    def command(*argv: str) -> Any:
        done = CliRunner().invoke(app, [*argv, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return command


def name() -> str:
    return f"prj_{secrets.token_hex(5)}"


def test_a_projects_life(run: Run) -> None:
    project = name()
    assert run("projects", "create", project, "--plan", "hobby", "--name", "Acme")["plan"] == "hobby"
    assert run("projects", "plan", project, "build", "--yes")["plan"] == "build"
    assert run("projects", "badge", project, "--hidden")["badge_shown"] is False
    assert run("projects", "standing", project, "--bad", "--reason", "unpaid")["good_standing"] is False
    assert run("projects", "close", project, "--reason", "asked", "--yes")["closed_at"] is not None
    assert run("projects", "reopen", project)["closed_at"] is None
    assert run("projects", "show", project)["name"] == "Acme"
    assert run("projects", "standing", project, "--good")["good_standing"] is True


def test_keys(run: Run, operator: Operator, stack: Stack) -> None:
    project = operator.project()
    key = run("keys", "create", project, "--scope", "content:read")
    reader = operator.client(key["key"])
    assert reader.get("/v1/balance").status_code == 200
    assert reader.post("/v1/admissions", json={"operation": "image"}).json()["code"] == "missing_scope"
    preview = run("keys", "create", project, "--environment", "preview")
    assert preview["scopes"] == ["content:*"]
    assert CliRunner().invoke(app, ["keys", "revoke", project, key["key_id"], "--yes"]).exit_code == 0
    assert reader.get("/v1/balance").json()["code"] == "key_revoked"


@pytest.mark.parametrize("key", ["", "  ", "k" * 256])
def test_what_can_be_no_key_is_refused_and_nothing_is_bought(run: Run, key: str) -> None:
    project = name()
    run("projects", "create", project)
    refused = CliRunner().invoke(app, ["credits", "top-up", project, "20", "--idempotency-key", key])
    assert refused.exit_code != 0 and "`--idempotency-key`" in str(refused.exception)
    assert run("credits", "balance", project)["top_ups"] == []


def test_money(run: Run) -> None:
    project = name()
    run("projects", "create", project)
    bought = [run("credits", "top-up", project, "100", "--idempotency-key", "k1") for _ in range(2)]
    assert (bought[0]["granted"], bought[0]["available"]) == ("20000", "20250")
    assert bought[1] == bought[0], "the same key buys once"
    balance = run("credits", "balance", project)
    (bundle,) = balance["top_ups"]
    taken = run("credits", "refund", project, bundle["grant_id"], "--reason", "asked", "--yes")
    assert (taken["taken_back"], taken["refund_cents"]) == ("20000", 10_000)
    assert "pay $100.00 back yourself" in taken["pay_back"]
    terms = run(
        "credits", "auto-recharge", project, "--on", "--threshold", "10", "--cap", "40", "--payment-method", "pm_1"
    )
    assert (terms["on"], terms["cap_usd"]) == (True, 40)
    assert run("credits", "auto-recharge", project, "--off")["on"] is False
    assert run("credits", "auto-recharge", project)["on"] is False


def test_jobs(run: Run, operator: Operator) -> None:
    project = operator.project("free")
    ids = [run("holds", "place", project, "image", job)["hold_id"] for job in ("a", "b")]
    assert run("holds", "place", project, "image", "a")["hold_id"] == ids[0], "the same job"
    assert [each["hold_id"] for each in run("holds", "list", project)["holds"]] == ids
    assert run("holds", "extend", project, ids[0], "60")["outcome"] == "extended"
    assert run("holds", "capture", project, ids[0], "--credits", "10")["credits"] == "10"
    assert run("holds", "release", project, ids[1], "--reason", "timeout")["available"] == "240"
    post = run("holds", "place", project, "social_post", "c", "--media-type", "image", "--seconds", "60")
    assert post["credits"] == "37"


def test_prices_are_announced_from_a_file(run: Run, operator: Operator, tmp_path: Path) -> None:
    operation = f"op.{secrets.token_hex(3)}"
    file = tmp_path / "book.json"
    file.write_text(
        json.dumps(
            {
                "version": secrets.token_hex(4),
                "effective_at": (datetime.now(UTC) + timedelta(seconds=2)).isoformat(),
                "rates": {operation: "2.5"},
                "hourly": {f"{operation}.hour": "0.5"},
            }
        )
    )
    version = run("prices", "announce", str(file), "--yes")["version"]
    eventually(lambda: run("prices", "list")["version"] == version)
    assert run("prices", "changelog")["books"][0]["version"] == version
    project = operator.project("hobby")
    assert run("projects", "item", project, f"{operation}.hour", "2")["items"][0]["quantity"] == 2
    assert run("projects", "items", project)["items"][0]["credits_an_hour"] == "0.5"


def test_invoices(run: Run, stack: Stack) -> None:
    account, project, month = f"b{secrets.token_hex(4)}", name(), f"{datetime.now(UTC):%Y-%m}"
    run("billing", "create", account, "--name", "Acme", "--email", "a@acme.example")
    assert run("billing", "change", account, "--name", "Acme Ltd", "--email", "b@acme.example")["name"] == "Acme Ltd"
    listed = run("billing", "list", "--limit", "1000")["billing_accounts"]
    assert ("Acme Ltd", account) in [(each["name"], each["id"]) for each in listed]
    run("projects", "create", project, "--plan", "hobby", "--billing-account", account)
    assert [each["project"] for each in run("billing", "show", account)["projects"]] == [project]
    eventually(lambda: [each["total_cents"] for each in run("billing", "months", account)["invoices"]] == [25_00])
    assert [each["total_cents"] for each in run("billing", "months", "--project", project)["invoices"]] == [25_00]
    for command, number in (
        (("invoice", account, month), f"INV-{account}-{month}"),
        (("statement", project, month), f"STM-{project}-{month}"),
    ):
        done = CliRunner().invoke(app, ["billing", *command], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["number"] == number


def test_assigning_says_what_stays_behind_and_how_to_move_it(run: Run) -> None:
    account, project, month = f"b{secrets.token_hex(4)}", name(), f"{datetime.now(UTC):%Y-%m}"
    run("billing", "create", account, "--name", "Acme", "--email", "a@acme.example")
    run("projects", "create", project, "--plan", "hobby")

    def assign(*options: str) -> str:
        done = CliRunner().invoke(app, ["billing", "assign", project, account, *options], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    own = f"the project's own invoice, INV-P-{project}-{month}"
    remedy = f"To move that too: meterline billing assign {project} {account} --from-month-start\n"
    assert assign("--dry-run") == (
        f"{project} would be on INV-{account}-{month}, with USD 0.00 of this month\n"
        f"USD 25.00 of this month would stay on {own}\n{remedy}"
    )
    assert run("projects", "show", project)["billing_account"] is None
    assert assign() == (
        f"{project} is on INV-{account}-{month}, with USD 0.00 of this month\n"
        f"USD 25.00 of this month stays on {own}\n{remedy}"
    )
    assert assign("--from-month-start") == f"{project} is on INV-{account}-{month}, with USD 25.00 of this month\n"


def test_a_surcharge_is_corrected_too(run: Run, operator: Operator) -> None:
    project, client = operator.customer()
    post = {"operation": "social_post", "media_type": "video", "source": "/shop", "id": "post"}
    assert client.post("/v1/admissions", json=post).json()["credits"] == "45"
    options = ("--operation", "social_post", "--media-type", "image", "--reason", "an image it was", "--yes")
    assert run("credits", "amend", project, "/shop", "post", *options)["change"] == "8"
    assert run("credits", "void", project, "/shop", "post", "--reason", "it failed", "--yes")["change"] == "37"
    late = ("--operation", "image", "--occurred-at", datetime.now(UTC).isoformat(), "--reason", "it came late", "--yes")
    assert run("credits", "bill-late", project, "/shop", "lost", *late)["change"] == "-32"


def test_any_id_explains_itself(run: Run, operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    project, client = operator.customer()
    used = client.post("/v1/admissions", json={"operation": "image", "source": "/shop", "id": project}).json()
    bought = run("credits", "top-up", project, "20")
    # The bundle that was bought by hand is just not enough to keep it from buying.
    terms = {"on": True, "threshold": "100000", "bundle_usd": 500, "cap_usd": 500, "payment_method": "pm_1"}
    wanted = operator.http.put(f"/v1/admin/projects/{project}/auto-recharge", json=terms).json()["pending"]
    eventually(lambda: len(client.get("/v1/ledger").json()["entries"]) == 4)
    allowance, bundle = (
        next(each["grant_id"] for each in client.get("/v1/ledger").json()["entries"] if each["reason"] == reason)
        for reason in ("allowance", "top_up")
    )
    assert run("explain", used["entry_id"])["outcome"] == "charged"
    assert [each["outcome"] for each in run("explain", project)["decisions"]] == ["charged"]
    assert run("explain", bought["entry_id"])["outcome"] == "granted"
    assert run("explain", allowance, "--project", project)["outcome"] == "project opened"
    assert run("explain", bundle, "--project", project)["outcome"] == "granted"
    assert run("explain", wanted)["project"] == project
    unknown = CliRunner().invoke(app, ["explain", "no-event-of-that-id"])
    assert unknown.exit_code == 1 and "no-event-of-that-id" in str(unknown.exception)
    _, stranger = operator.customer()
    assert stranger.get(f"/v1/receipts/{wanted}").json()["code"] == "unknown_receipt"


def test_limits(run: Run, operator: Operator) -> None:
    project = operator.project("free")
    assert run("limits", "show", project)["in_force"]["requests_per_minute"] == 30
    contract = run("limits", "set", project, "--requests", "50", "--ceiling", "12.5", "--reason", "contract 7")
    assert contract["in_force"] == {"requests_per_minute": 50, "burst": 60, "cost_ceiling": "12.5"}
    assert run("limits", "shadow", project, "--burst", "5")["shadow"]["burst"] == 5
    assert run("limits", "shadow", project, "--end")["shadow"] is None
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    options = ("--until", tomorrow, "--burst", "900", "--reason", "launch", "--idempotency-key", "k1")
    made = [run("limits", "raise", project, *options) for _ in range(2)]
    assert made[0]["id"] == made[1]["id"] and made[1]["limits"]["in_force"]["burst"] == 900
    assert run("limits", "end-raise", project, made[0]["id"])["raises"] == []
    assert run("limits", "set", project, "--end")["contract"] is None


def test_audit(run: Run, operator: Operator, stack: Stack) -> None:
    project = operator.project("free")
    client = operator.client(operator.key(project)["key"])
    refused = client.post("/v1/admissions", json={"operation": "video", "tier": "premium"}).json()
    run("limits", "set", project, "--burst", "500", "--reason", "contract 7")
    eventually(lambda: len(run("audit", project)["entries"]) == 4)
    (entry,) = run("audit", project, "--kind", "refusals")["entries"]
    assert (entry["entry_id"], entry["code"]) == (refused["entry_id"], "plan_required")
    assert run("audit", project, "--to", entry["at"], "--kind", "refusals")["entries"] == []
    assert run("audit", "list", project) == run("audit", project) | {"since": ANY, "until": ANY}
    assert project in [each["project"] for each in run("audit", "--kind", "keys", "--limit", "1000")["entries"]]
    (use,) = [row for row in run("audit", "keys", project)["rows"] if row["operation"] == "video.premium"]
    assert (use["uses"], use["refused"]) == (1, 1)
    shown = CliRunner().invoke(app, ["audit", project, "--limit", "1"])
    head, line = shown.stdout.splitlines()
    assert head.split()[:2] == ["at", "entry_id"] and line.endswith("500 at once (contract 7)")
    assert "--cursor" in shown.stderr
    assert project in CliRunner().invoke(app, ["audit", "keys", project]).stdout


def test_help_says_how(run: Run) -> None:
    for argv, words in (
        (["limits"], ["set", "shadow", "raise", "end-raise", "show"]),
        (["limits", "raise", "--help"], ["--until", "RFC 3339", "--ceiling"]),
        (["audit", "--help"], ["keys", "list"]),
        (["audit", "list", "--help"], ["--kind", "refusals", "--from"]),
    ):
        done = CliRunner().invoke(app, argv, terminal_width=200)
        assert all(word in done.output for word in words), done.output


def test_what_is_refused_says_why_in_one_line(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from api.cli import main

    def fails(*argv: str) -> str:
        monkeypatch.setattr("sys.argv", ["meterline", *argv])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == 1
        return capfd.readouterr().err

    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))
    assert "unknown_project" in fails("projects", "show", "prj_nobody")
    assert "unknown_raise" in fails("limits", "end-raise", Operator(stack).project(), "0-0-0")
    assert "--end" in fails("limits", "set", "prj_nobody")
    assert "--until: " in fails("limits", "raise", "prj_nobody", "--until", "tomorrow", "--reason", "x", "--burst", "5")
    assert "is no JSON" in fails("prices", "announce", __file__, "--yes")
    monkeypatch.setenv("METERLINE_DATA_DIR", str(tmp_path))
    assert "METERLINE_ADMIN_KEY" in fails("projects", "show", "prj_nobody")
    monkeypatch.setenv("METERLINE_ADMIN_KEY", "mtl_admin_x")
    monkeypatch.setenv("METERLINE_API_URL", "http://127.0.0.1:9")
    assert "can't be reached" in fails("projects", "show", "prj_nobody")


def test_an_export_has_the_usage_of_before_the_project_was_opened(
    run: Run, operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    download = Api.download

    def recorded(service: Api, path: str, **parameters: Any) -> Iterator[bytes]:
        asked.append(parameters)
        return download(service, path, **parameters)

    monkeypatch.setattr(Api, "download", recorded)
    run("export", operator.project(), str(tmp_path / "out"))
    # As far back as a file of old usage may go.
    assert [each["from"] for each in asked] == ["1971-01-01"]


def test_without_json_it_is_readable(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))
    done = CliRunner().invoke(app, ["projects", "create", name(), "--plan", "hobby"])
    assert done.exit_code == 0, done.output
    assert "plan: hobby" in done.stdout


def test_what_was_used_is_read_as_a_table_as_csv_and_as_files(
    run: Run, operator: Operator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    project, client = operator.customer()
    for event_id in ("e1", "e2", "e3"):
        use = {"operation": "image", "source": "/shop", "id": event_id, "metadata": {"customer_id": "=1+1"}}
        assert client.post("/v1/admissions", json=use).status_code == 200
    eventually(lambda: len(run("ledger", project)["entries"]) == 4)
    (row,) = run("usage", project, "--group-by", "operation,customer_id")["rows"]
    assert row == {"group": {"operation": "image", "customer_id": "=1+1"}, "uses": 3, "quantity": 3, "credits": "96"}

    def printed(*argv: str) -> list[str]:
        done = CliRunner().invoke(app, [*argv], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout.splitlines()

    head, line = printed("usage", project)
    assert (head.split(), line.split()) == (["operation", "uses", "quantity", "credits"], ["image", "3", "3", "96"])
    assert printed("usage", project, "--top", "1")[1].split() == ["image", "-", "3", "3", "96"]
    told = CliRunner().invoke(app, ["usage", project, "-v"], catch_exceptions=False)
    assert re.search(r"all that was decided \d+\.\d s before; [\d,]+ rows read", told.output)
    assert len(printed("ledger", project, "--limit", "2")) == 3
    assert len(printed("ledger", project, "--kind", "charge", "--customer", "=1+1", "--operation", "image")) == 4
    assert len(printed("ledger", project, "--to", "2020-01-01")) == 1
    whole = printed("ledger", project, "--csv")
    assert len(whole) == 5 and ",-32," in whole[1] and ",'=1+1," in whole[1]
    refused = CliRunner().invoke(app, ["ledger", project, "--csv", "--limit", "2"])
    assert refused.exit_code == 2
    done = run("export", project, str(tmp_path / "out"))
    assert done["ledger_entries"] == 4
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert set(written) == {"project.json", "balance.json", "usage.csv", "ledger.csv"}
    assert written["ledger.csv"].splitlines() == whole
    assert json.loads(written["balance.json"])["production"]["available"] == "154"
    assert ",3,3,96" in written["usage.csv"].splitlines()[1]
    assert run("export", project, str(tmp_path / "columns"), "--format", "parquet")["ledger_entries"] == 4
    assert (tmp_path / "columns" / "usage.parquet").read_bytes()[:4] == b"PAR1"
    again = CliRunner().invoke(app, ["export", project, str(tmp_path / "out")])
    assert again.exit_code == 1 and "is there already" in str(again.exception)
    twice = CliRunner().invoke(app, ["usage", project, "--where", "customer_id=a", "--where", "customer_id=b"])
    assert twice.exit_code == 2 and "one customer_id" in twice.output
    (decided,) = run("events", "show", "e2", "--project", project)["decisions"]
    assert (decided["outcome"], decided["amount"]) == ("charged", "-32")
    assert printed("events", "show", "e2", "--project", project)[1].split()[2:5] == [project, "charged", "-32"]
