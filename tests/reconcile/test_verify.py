"""`meterline verify` finds what was tampered with, and names it; a live system that is right is found right."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from aiokafka import AIOKafkaProducer
from msgspec.structs import replace

from api.stack import Stack
from schemas.facts import Fact
from streams.clickhouse.client import ClickHouse
from streams.kafka.codecs import encode_account, encode_facts
from streams.kafka.topics import kafka_client_settings, partition_of, topics_of
from streams.reconcile.rebuild import rebuild
from streams.reconcile.verify import Verdict, verify
from streams.settings import Settings
from streams.state.accounts_view import read_accounts
from tests.calls import Operator, event, eventually
from tests.command_line import Meterline

BATCH = {"content-type": "application/cloudevents-batch+json"}


def reconcile(settings: Settings, clickhouse: ClickHouse) -> Verdict:
    return asyncio.run(verify(settings, clickhouse))


async def give_a_microcredit(settings: Settings, project: str, directory: Path, microcredits: int = 1) -> None:
    """Give a project microcredits by writing straight into the accounts changelog, where only the owner may write."""
    async with read_accounts(settings, directory) as view:
        account = view.get(project)
    assert account is not None
    account.grants[0].remaining += microcredits
    producer = AIOKafkaProducer(**kafka_client_settings(settings))
    await producer.start()
    await producer.send_and_wait(
        topics_of(settings).accounts_changelog,
        encode_account(account),
        key=project.encode(),
        partition=partition_of(project, settings.partitions),
    )
    await producer.stop()


def test_verify_on_a_live_system(stack: Stack, operator: Operator) -> None:
    project, client = operator.customer("hobby")

    async def spend_while(verifying: asyncio.Future) -> int:
        sent = 0
        while not verifying.done():
            batch = [event(project, f"{sent}-{n}") for n in range(20)]
            await asyncio.to_thread(client.post, "/v1/events", content=json.dumps(batch), headers=BATCH)
            sent += 20
        return sent

    async def scenario() -> tuple[Verdict, int]:
        settings = stack.settings.model_copy(update={"clickhouse_url": stack.clickhouse_url})
        clickhouse = await asyncio.to_thread(ClickHouse, settings)
        verifying = asyncio.ensure_future(verify(settings, clickhouse))
        sent = await spend_while(verifying)
        return await verifying, sent

    verdict, sent = asyncio.run(scenario())
    assert sent > 0
    assert verdict.ok, verdict.differences
    assert verdict.projects >= 1
    assert verdict.facts >= 2


def test_the_command_finds_the_running_stack(stack: Stack, meterline: Meterline) -> None:
    done = meterline("verify", "--json", METERLINE_DATA_DIR=str(stack.settings.data_dir))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] is True
    nowhere = meterline("verify", METERLINE_DATA_DIR=str(stack.settings.data_dir / "none"))
    assert nowhere.returncode == 2
    assert "meterline up" in nowhere.stderr


def test_drift_is_found_and_named(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    """A stack of its own is spoiled here: the journal gets a fact too many, and the history one of its rows twice."""
    settings = settings_for(api_port=0, clickhouse_front_port=0)
    with Stack(settings) as stack:
        operator = Operator(stack)
        project, client = operator.customer()
        # A job that was captured for nothing is decided, and no charge tells so.
        job = {"operation": "image", "source": "/t", "id": "z"}
        hold_id = client.post("/v1/admissions", json=job | {"hold": True, "job_id": "z"}).json()["hold_id"]
        assert client.post(f"/v1/holds/{hold_id}/capture", json={"credits": "0"}).status_code == 200
        assert client.post("/v1/admissions", json=job).json()["already_decided"] is True
        assert client.post("/v1/admissions", json={"operation": "image"}).status_code == 200
        # The ledger is read with the operator's key, whose calls leave no facts: the charge stays the last fact.
        named = {"project": project}
        eventually(lambda: len(operator.http.get("/v1/ledger", params=named).json()["entries"]) == 2)
        live = stack.settings.model_copy(update={"clickhouse_url": stack.clickhouse_url})
        clickhouse = ClickHouse(live)
        assert reconcile(live, clickhouse).ok
        charge = operator.http.get("/v1/ledger", params=named).json()["entries"][0]
        partition, offset, _ = (int(part) for part in charge["entry_id"].split("-"))
        forged = Fact(
            offset, 1_000, "charge", project, "production", "image", 1, -5, 0, charge["grant_id"], "", "", "/s", "x",
            "", "", 1_780_000_000_000, 1_780_000_000_000, "",
        )  # fmt: skip

        rebuilt = asyncio.run(rebuild(live))
        assert rebuilt.ok
        assert (rebuilt.accounts, rebuilt.records > 2) == (1, True)

        async def forge() -> None:
            producer = AIOKafkaProducer(**kafka_client_settings(live))
            await producer.start()
            repeat = replace(forged, index=1_001, kind="duplicate", amount=0, grant_id="", event_id="y")
            told = replace(repeat, index=1_002, reason="event_id_reused", event_id="z")
            value = encode_facts([forged, repeat, told])
            await producer.send_and_wait(topics_of(live).journal, value, partition=partition)
            await producer.stop()

        asyncio.run(forge())
        verdict = reconcile(live, clickhouse)
        assert not verdict.ok
        assert (verdict.use_accepted_but_unbilled, verdict.unbilled) == (1, [f"{partition}-{offset}-1001"])
        assert asyncio.run(rebuild(live)).ok, "the accounts are what their log makes of them, whatever the journal says"
        asyncio.run(give_a_microcredit(live, project, tmp_path / "copy"))
        rebuilt = asyncio.run(rebuild(live))
        assert (rebuilt.ok, rebuilt.different, rebuilt.named) == (False, 1, [project])
        asyncio.run(give_a_microcredit(live, project, tmp_path / "copy-2", -1))
        assert asyncio.run(rebuild(live)).ok
        (found,) = verdict.differences
        assert (found.project, found.grant_id, found.between) == (project, charge["grant_id"], "accounts and journal")
        assert verdict.drift_microcredits == 5
    # The stack is down, so its engine may be opened here, and a row be written twice.
    history = ClickHouse(settings)
    columns = "partition, offset, position, journal_offset, kind, project, grant_id, amount, booked_at"
    history.command(
        f"INSERT INTO facts ({columns}) SELECT {columns} FROM facts WHERE project = {{project:String}} AND amount = -5",
        {"project": project},
    )
    history.close()
    with Stack(settings) as stack:
        live = stack.settings.model_copy(update={"clickhouse_url": stack.clickhouse_url})
        verdict = reconcile(live, ClickHouse(live))
        named = {difference.between: difference.entry_ids for difference in verdict.differences}
        assert named["journal and ClickHouse"] == [f"{partition}-{offset}-1000"]
