"""What the bus promises for durable messages, on every journal and over every transport.

A `Site` has machines. Without a transport all of them work one journal, as processes or hosts that
share it do; with one, each has a journal of its own.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from faststream.redis import RedisBroker

from app.llmgine.bus import MessageBus, Retry
from app.llmgine.bus.durable import MAX_LOSSES
from app.llmgine.delivery.faststream import FastStreamTransport
from app.llmgine.delivery.journal import Journal, Outcome
from app.llmgine.delivery.nats import NatsTransport
from app.llmgine.delivery.postgres import PostgresJournal
from app.llmgine.delivery.sqlite import SQLiteJournal
from app.llmgine.delivery.transport import Transport
from app.llmgine.errors import HandlerMissingError, WorkerLostError
from app.llmgine.messages import Command, Event, current_envelope

SITES = ["sqlite", "postgres", "sqlite+nats", "postgres+nats", "sqlite+redis"]
STRICT = [site for site in SITES if "redis" not in site]
NATS = ["sqlite+nats", "postgres+nats"]
LEASE_S = 1.5
SOON_S = 20.0


class Work(Command[str]):
    durable = True
    item: str


class Worked(Event):
    durable = True
    item: str


class Ask(Command[int]):
    number: int


class RefusedError(Exception):
    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"refused with {code}")


Handler = Callable[[Work], Awaitable[str]]


class Site:
    """Machines, each a bus that is stopped at the end."""

    def __init__(
        self,
        stack: AsyncExitStack,
        journal: Callable[[int], Journal],
        transport: Callable[[], Transport] | None,
    ) -> None:
        self._stack = stack
        self._journal = journal
        self._transport = transport

    def bus(self, machine: int, **options: Any) -> MessageBus:
        return MessageBus(
            journal=self._journal(machine if self._transport else 0),
            transport=self._transport and self._transport(),
            lease_s=LEASE_S,
            **options,
        )

    async def start(self, bus: MessageBus) -> MessageBus:
        await bus.start()
        self._stack.push_async_callback(bus.stop, 5)
        return bus

    async def client(self) -> MessageBus:
        """A machine that leaves all work to the others."""
        return await self.start(self.bus(1, work=False) if not self._transport else self.bus(1))

    async def worker(self, machine: int, handler: Handler, **options: Any) -> MessageBus:
        bus = self.bus(machine)
        bus.register_command_handler(Work, handler, **options)
        return await self.start(bus)


@pytest.fixture
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    kind, _, over = request.param.partition("+")
    server = request.getfixturevalue("postgres_server") if kind == "postgres" else None
    databases: dict[int, str] = {}

    def journal(machine: int) -> Journal:
        if server is None:
            return SQLiteJournal(tmp_path / f"{machine}.db")
        if machine not in databases:
            databases[machine] = server.fresh_url()
        return PostgresJournal(databases[machine])

    url = request.getfixturevalue(f"{over}_server").fresh_url() if over else ""
    transports: dict[str, Callable[[], Transport]] = {
        "nats": lambda: NatsTransport(url, ack_wait_s=LEASE_S, shards=2, stream_bytes=9_000_000),
        "redis": lambda: FastStreamTransport(RedisBroker(url)),
    }
    async with AsyncExitStack() as stack:
        yield Site(stack, journal, transports.get(over))


def on(sites: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("site", sites, indirect=True)


async def within(seconds: float, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  it is another thread or process that changes it
            await asyncio.sleep(0.02)


@on(SITES)
async def test_a_command_sent_by_one_machine_is_done_by_another_and_its_result_comes_home(
    site: Site,
) -> None:
    async def work(command: Work) -> str:
        return command.item.upper()

    await site.worker(2, work)
    client = await site.client()

    receipts = [await client.send(Work(item=f"i{number}")) for number in range(20)]
    results = [await client.result(receipt, timeout_s=SOON_S) for receipt in receipts]

    assert results == [f"I{number}" for number in range(20)]


@on(SITES)
async def test_a_handler_s_error_comes_home_as_itself_and_the_message_is_a_dead_letter(
    site: Site,
) -> None:
    async def work(command: Work) -> str:
        raise RefusedError(7)

    worker = await site.worker(2, work)
    client = await site.client()

    receipt = await client.send(Work(item="x"))
    with pytest.raises(RefusedError) as refused:
        await client.result(receipt, timeout_s=SOON_S)

    assert refused.value.code == 7
    assert worker.journal is not None
    [dead] = await worker.journal.find(["dead"], route="command Work")
    assert "refused with 7" in str(dead.error)


@on(STRICT)
async def test_messages_of_a_key_are_done_in_order_over_two_workers_and_a_retry(site: Site) -> None:
    done: list[str] = []
    failed: set[str] = set()

    async def work(command: Work) -> str:
        await asyncio.sleep(0.001)
        if command.item.endswith("3") and command.item not in failed:
            failed.add(command.item)
            raise ConnectionError
        done.append(command.item)
        return ""

    retry = Retry(attempts=5, base_s=0.01, cap_s=0.02)
    for machine in (2, 3):
        await site.worker(machine, work, middleware=[retry])
    client = await site.client()

    for number in range(8):
        for key in "ab":
            await client.send(Work(item=f"{key}{number}"), key=key)
    await within(SOON_S, lambda: len(done) == 16)

    for key in "ab":
        assert [item for item in done if item[0] == key] == [f"{key}{n}" for n in range(8)]


@on(SITES)
async def test_an_id_is_done_once_however_often_it_is_sent(site: Site) -> None:
    done: list[str] = []

    async def work(command: Work) -> str:
        done.append(command.item)
        return command.item

    await site.worker(2, work)
    client = await site.client()

    receipts = [await client.send(Work(item=str(number)), id="one") for number in range(5)]
    result = await client.result(receipts[-1], timeout_s=SOON_S)

    assert (result, done) == ("0", ["0"])
    assert [receipt.duplicate for receipt in receipts] == [False, True, True, True, True]


@on(SITES)
async def test_a_failed_attempt_is_made_again_after_its_backoff(site: Site) -> None:
    attempts: list[int] = []

    async def work(command: Work) -> str:
        envelope = current_envelope()
        assert envelope is not None
        attempts.append(envelope.attempt)
        if len(attempts) < 3:
            raise ConnectionError
        return "at last"

    await site.worker(2, work, middleware=[Retry(attempts=3, base_s=0.05, cap_s=0.1)])
    client = await site.client()

    result = await client.result(await client.send(Work(item="x")), timeout_s=SOON_S)

    assert (result, attempts) == ("at last", [1, 2, 3])


@on(STRICT)
async def test_a_handler_much_longer_than_the_lease_runs_once(site: Site) -> None:
    begun: list[str] = []

    async def work(command: Work) -> str:
        begun.append(command.item)
        await asyncio.sleep(LEASE_S * 3)
        return "done"

    for machine in (2, 3):
        await site.worker(machine, work)
    client = await site.client()

    result = await client.result(await client.send(Work(item="slow")), timeout_s=SOON_S)

    assert (result, begun) == ("done", ["slow"])


@on(SITES)
async def test_a_message_sent_for_later_is_not_done_before(site: Site) -> None:
    done: list[datetime] = []

    async def work(command: Work) -> str:
        done.append(datetime.now(UTC))
        return ""

    await site.worker(2, work)
    sender = await site.start(site.bus(1))

    at = datetime.now(UTC) + timedelta(seconds=0.6)
    await sender.result(await sender.send(Work(item="x"), at=at), timeout_s=SOON_S)

    assert done[0] >= at


@on(SITES)
async def test_a_schedule_goes_on_until_it_is_cancelled(site: Site) -> None:
    done: list[str] = []

    async def work(command: Work) -> str:
        done.append(command.item)
        return ""

    await site.worker(2, work)
    sender = await site.start(site.bus(1))

    receipt = await sender.send(Work(item="x"), every=timedelta(seconds=0.2), id="often")
    await within(SOON_S, lambda: len(done) >= 3)
    async with asyncio.timeout(SOON_S):
        cancelled = False
        while not cancelled:  # Just now it may be leaving another one.
            cancelled = await sender.cancel(receipt)
    assert sender.journal is not None

    assert await sender.journal.get(receipt.id) is None


@on(SITES)
async def test_events_of_a_handler_go_out_with_its_success_to_each_subscription_once(
    site: Site,
) -> None:
    attempts: list[str] = []
    seen: Counter[str] = Counter()

    async def work(command: Work) -> str:
        bus = worker
        await bus.publish(Worked(item=command.item))
        attempts.append(command.item)
        if len(attempts) == 1:
            raise ConnectionError
        return ""

    async def bill(event: Worked) -> None:
        seen[f"bill {event.item}"] += 1

    async def ship(event: Worked) -> None:
        seen[f"ship {event.item}"] += 1

    worker = site.bus(2)
    worker.register_command_handler(Work, work, middleware=[Retry(attempts=2, base_s=0)])
    for handler in (bill, ship):
        worker.register_event_handler(Worked, handler)
    await site.start(worker)
    client = await site.client()

    await client.result(await client.send(Work(item="x")), timeout_s=SOON_S)
    await within(SOON_S, lambda: len(seen) == 2)
    await worker.idle()

    assert (len(attempts), seen) == (2, {"bill x": 1, "ship x": 1})


@on(SITES)
async def test_what_runs_on_a_machine_that_is_stopped_is_done_by_another(site: Site) -> None:
    begun = asyncio.Event()

    async def hang(command: Work) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    async def work(command: Work) -> str:
        return "elsewhere"

    stopped = site.bus(2)
    stopped.register_command_handler(Work, hang)
    await stopped.start()
    client = await site.client()

    receipt = await client.send(Work(item="x"))
    async with asyncio.timeout(SOON_S):
        await begun.wait()
    await stopped.stop(0)
    await site.worker(3, work)

    assert await client.result(receipt, timeout_s=SOON_S) == "elsewhere"


@on(["sqlite", "postgres"])
async def test_what_ends_its_workers_is_dead_in_the_end_and_its_neighbours_are_done(
    site: Site,
) -> None:
    async def work(command: Work) -> str:
        return "done"

    client = await site.client()
    journal = client.journal
    assert journal is not None
    good = await client.send(Work(item="good"))
    poison = await client.send(Work(item="poison"))
    losses = 0
    while losses < MAX_LOSSES:
        claimed = await journal.claim("short-lived", {"command Work": 9}, 9, 1, suspects=False)
        claimed = claimed or await journal.claim(
            "short-lived", {"command Work": 1}, 1, 1, suspects=True
        )
        losses += any(entry.id == poison.id for entry in claimed)
        if all(entry.id == good.id for entry in claimed):
            assert await journal.settle(claimed[0], Outcome(state="done", at_ns=1, result='"done"'))
        await journal.release("short-lived", lost=True)
    await site.worker(2, work)

    with pytest.raises(WorkerLostError, match="lost its worker 5 times"):
        await client.result(poison, timeout_s=SOON_S)
    assert await client.result(good, timeout_s=SOON_S) == "done"


@on(SITES)
async def test_the_log_of_a_machine_has_its_events_in_order_for_who_comes_back(site: Site) -> None:
    bus = await site.start(site.bus(1))

    for number in range(5):
        await bus.publish(Worked(item=str(number)), session_id="s")
    first = bus.events(after=0, session="s")
    told = [await anext(first) for _ in range(2)]
    again = bus.events(after=told[-1].cursor, session="s")
    missed = [await anext(again) for _ in range(3)]

    items = [one.event.item for one in (*told, *missed) if isinstance(one.event, Worked)]
    assert items == ["0", "1", "2", "3", "4"]
    cursors = [one.cursor for one in (*told, *missed)]
    assert cursors == sorted(set(cursors))


@on(NATS)
async def test_a_command_whose_handler_is_elsewhere_is_executed_there(site: Site) -> None:
    async def ask(command: Ask) -> int:
        if command.number < 0:
            raise RefusedError(command.number)
        return command.number + 1

    serving = site.bus(2)
    serving.register_command_handler(Ask, ask)
    await site.start(serving)
    client = await site.client()

    assert await client.execute(Ask(number=1)) == 2
    with pytest.raises(RefusedError) as refused:
        await client.execute(Ask(number=-1))
    assert refused.value.code == -1


@on(NATS)
async def test_who_gives_up_on_a_command_elsewhere_cancels_it_there(site: Site) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def ask(command: Ask) -> int:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return 0

    serving = site.bus(2)
    serving.register_command_handler(Ask, ask)
    await site.start(serving)
    client = await site.client()

    asking = asyncio.create_task(client.execute(Ask(number=1)))
    async with asyncio.timeout(SOON_S):
        await begun.wait()
        asking.cancel()
        await cancelled.wait()
    await asyncio.gather(asking, return_exceptions=True)

    assert asking.cancelled()


@on(NATS)
async def test_a_command_that_nobody_handles_is_told_so(site: Site) -> None:
    client = await site.client()

    with pytest.raises(HandlerMissingError, match="Ask"):
        await client.execute(Ask(number=1))


@on(["sqlite+nats"])
@pytest.mark.parametrize("first", ["sender", "receiver"])
async def test_a_dead_letter_can_be_resent_at_either_machine_and_both_then_know_the_result(
    site: Site, first: str
) -> None:
    done: list[str] = []

    async def work(command: Work) -> str:
        done.append(command.item)
        if len(done) == 1:
            raise RefusedError(1)
        return "mended"

    worker = await site.worker(2, work)
    client = await site.client()
    receipt = await client.send(Work(item="x"))
    with pytest.raises(RefusedError):
        await client.result(receipt, timeout_s=SOON_S)
    assert client.journal is not None
    assert worker.journal is not None
    [there] = await worker.journal.find(["dead"], route="command Work")
    if first == "receiver":
        await worker.dead_letters.resend(there.id)
        async with asyncio.timeout(SOON_S):
            while not await client.journal.find(["done"], route="relay"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    else:
        await client.dead_letters.resend(receipt.id)

    assert await client.result(receipt, timeout_s=SOON_S) == "mended"
    assert await worker.journal.find(["dead"]) == []
    assert done == ["x", "x"]


@on(["sqlite+nats"])
async def test_a_durable_command_without_a_handler_here_is_executed_by_whoever_has_one(
    site: Site,
) -> None:
    async def work(command: Work) -> str:
        return "there"

    await site.worker(2, work)
    client = await site.client()

    assert await client.execute(Work(item="x")) == "there"
