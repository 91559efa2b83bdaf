"""What every transport must do; `test_transports.py` runs it on each of them."""

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from app.llmgine.delivery.journal import Entry
from app.llmgine.delivery.transport import (
    Address,
    Again,
    Dead,
    Done,
    Kind,
    RequestFailedError,
    Source,
    Transport,
    Verdict,
)
from app.llmgine.errors import HandlerMissingError, TransportError
from app.llmgine.messages import new_id

SOON_S = 15.0
HELD_S = 2.0
"""How long a silent process keeps what it has in hand, in these tests."""

MakeTransport = Callable[[], Awaitable[Transport]]


def entry(name: str = "Charge", payload: str = "{}", *, key: str | None = None) -> Entry:
    return Entry(
        id=new_id(),
        route="relay",
        name=name,
        version=3,
        payload=payload,
        headers='{"session_id":"s"}',
        key=key,
        created_ns=time.time_ns(),
    )


def command(name: str = "Charge") -> Address:
    return Address(kind="command", name=name)


def source(
    *names: str, kind: Kind = "command", group: str = "app", concurrency: int = 16
) -> Source:
    addresses = tuple(Address(kind=kind, name=name) for name in names or ("Charge",))
    return Source(addresses=addresses, group=group, concurrency=concurrency)


class Process:
    """Handles what it is handed with `handle`, and remembers it."""

    def __init__(self, handle: Callable[[Entry, int], Awaitable[Verdict]] | None = None) -> None:
        self.entries: list[Entry] = []
        self.times: list[int] = []
        self.ended: list[str] = []
        self._handle = handle
        self._changed = asyncio.Condition()

    async def deliver(self, one: Entry, times: int) -> Verdict:
        async with self._changed:
            self.entries.append(one)
            self.times.append(times)
            self._changed.notify_all()
        verdict = Done() if self._handle is None else await self._handle(one, times)
        async with self._changed:
            self.ended.append(one.id)
            self._changed.notify_all()
        return verdict

    async def got(self, count: int) -> list[str]:
        """The payloads, as soon as there are so many."""
        return await self._seen(lambda: len(self.entries) >= count)

    async def done(self, count: int) -> list[str]:
        return await self._seen(lambda: len(self.ended) >= count)

    async def _seen(self, enough: Callable[[], bool]) -> list[str]:
        async with asyncio.timeout(SOON_S), self._changed:
            await self._changed.wait_for(enough)
        return self.payloads

    @property
    def payloads(self) -> list[str]:
        return [one.payload for one in self.entries]


async def nothing_more(transport: Transport, *processes: Process) -> None:
    """Return when a message that was sent last has come through: others would have come first."""
    last = Process()
    name = f"last-{new_id()}"
    stop = await transport.consume(source(name), last.deliver)
    await transport.send(entry(name), command(name))
    await last.done(1)
    await stop()


class TransportContract:
    """A subclass gives `make`, a factory of open transports that meet at one server."""

    @pytest.fixture
    @abstractmethod
    async def make(self) -> AsyncIterator[MakeTransport]:
        yield NotImplemented

    async def test_an_entry_arrives_as_it_was_sent(self, make: MakeTransport) -> None:
        transport, there = await make(), Process()
        sent = entry("Charge “it”. now", '{"text":"schön\\n"}', key="a.b *>")
        await transport.consume(source(sent.name), there.deliver)
        await transport.send(sent, command(sent.name))
        await there.got(1)

        (came,) = there.entries
        for field in ("id", "name", "version", "payload", "headers", "key", "created_ns"):
            assert getattr(came, field) == getattr(sent, field)
        assert came.route == f"command {sent.name}"
        assert there.times == [1]

    async def test_a_command_waits_for_a_process_and_comes_to_one(
        self, make: MakeTransport
    ) -> None:
        sender, one, other = await make(), await make(), await make()
        here, there = Process(), Process()
        await sender.send(entry(payload="0"), command())

        await one.consume(source(group="one"), here.deliver)
        await here.done(1)
        await other.consume(source(group="other"), there.deliver)
        for number in range(1, 40):
            await sender.send(entry(payload=str(number)), command())
        await _until(lambda: len(here.ended) + len(there.ended) >= 40)
        await nothing_more(sender)

        assert sorted(map(int, here.payloads + there.payloads)) == list(range(40))

    async def test_an_event_comes_to_each_group_once(self, make: MakeTransport) -> None:
        sender, one, other = await make(), await make(), await make()
        groups = {name: Process() for name in ("bills", "mails")}
        for transport in (one, other):
            for group, process in groups.items():
                await transport.consume(
                    source("Paid", "Refunded", kind="event", group=group), process.deliver
                )
        for number in range(20):
            name = ("Paid", "Refunded")[number % 2]
            await sender.send(entry(name, str(number)), Address(kind="event", name=name))
        for process in groups.values():
            await process.done(20)
        await nothing_more(sender)

        for group, process in groups.items():
            assert sorted(map(int, process.payloads)) == list(range(20))
            assert {came.route for came in process.entries} == {f"event {group}"}

    async def test_a_result_comes_to_its_node(self, make: MakeTransport) -> None:
        transport, mine, theirs = await make(), Process(), Process()
        await transport.consume(source("node-1", kind="result"), mine.deliver)
        await transport.consume(source("node-2", kind="result"), theirs.deliver)
        await transport.send(entry(payload="7"), Address(kind="result", name="node-1"))

        assert await mine.done(1) == ["7"]
        await nothing_more(transport)
        assert theirs.payloads == []

    async def test_again_hands_out_after_that_time(self, make: MakeTransport) -> None:
        asked: list[float] = []

        async def handle(one: Entry, times: int) -> Verdict:
            asked.append(time.monotonic())
            return Again(0.4) if times == 1 else Done()

        transport, there = await make(), Process(handle)
        await transport.consume(source(), there.deliver)
        await transport.send(entry(), command())
        await there.done(2)

        assert there.times == [1, 2]
        assert asked[1] - asked[0] >= 0.35

    async def test_what_is_dead_does_not_come_again_and_blocks_nobody(
        self, make: MakeTransport
    ) -> None:
        async def handle(one: Entry, times: int) -> Verdict:
            return Dead('{"message": "broken"}') if one.payload == "bad" else Done()

        transport, there = await make(), Process(handle)
        await transport.consume(source(), there.deliver)
        await transport.send(entry(payload="bad", key="k"), command())
        await transport.send(entry(payload="good", key="k"), command())

        assert await there.done(2) == ["bad", "good"]
        await nothing_more(transport)
        assert there.payloads == ["bad", "good"]

    async def test_no_more_than_the_concurrency_run_at_once(self, make: MakeTransport) -> None:
        running, most = 0, 0

        async def handle(one: Entry, times: int) -> Verdict:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1
            return Done()

        transport, there = await make(), Process(handle)
        for number in range(24):
            await transport.send(entry(key=str(number) if number % 2 else None), command())
        await transport.consume(source(concurrency=3), there.deliver)
        await there.done(24)

        assert 1 < most <= 3

    async def test_what_is_cancelled_is_handed_out_elsewhere_at_once(
        self, make: MakeTransport
    ) -> None:
        one, other = await make(), await make()
        here, there = Process(_for_ever), Process()
        await one.consume(source(), here.deliver)
        await one.send(entry(payload="1"), command())
        await one.send(entry(payload="2", key="k"), command())
        await here.got(2)
        await other.consume(source(), there.deliver)

        began = time.monotonic()
        await one.aclose()
        await there.done(2)

        assert sorted(there.payloads) == ["1", "2"]
        assert time.monotonic() - began < HELD_S

    async def test_stopping_waits_for_those_in_hand_and_leaves_the_rest(
        self, make: MakeTransport
    ) -> None:
        go_on = asyncio.Event()

        async def handle(one: Entry, times: int) -> Verdict:
            await go_on.wait()
            return Done()

        one, other, here, there = await make(), await make(), Process(handle), Process()
        stop = await one.consume(source(concurrency=1), here.deliver)
        await one.send(entry(payload="0"), command())
        await here.got(1)
        stopping = asyncio.ensure_future(stop())
        for number in range(1, 5):
            await one.send(entry(payload=str(number)), command())
        await other.consume(source(), there.deliver)
        await there.done(4)
        assert not stopping.done()
        go_on.set()
        await stopping
        await nothing_more(other)

        assert here.payloads == ["0"]
        assert sorted(there.payloads) == ["1", "2", "3", "4"]

    async def test_a_large_message_arrives_whole(self, make: MakeTransport) -> None:
        transport, there = await make(), Process()
        await transport.consume(source(), there.deliver)
        large = '"' + "ü" * 1_000_000 + '"'
        await transport.send(entry(payload=large), command())

        assert await there.done(1) == [large]

    async def test_opening_and_closing_twice_does_nothing(self, make: MakeTransport) -> None:
        transport = await make()
        await transport.open()
        said = await transport.check()
        assert said
        assert "\n" not in said

        await transport.aclose()
        await transport.aclose()
        with pytest.raises(TransportError, match="open"):
            await transport.check()


class StrictContract:
    """For transports that keep the order of a key, know ids, and see who lives."""

    @pytest.fixture
    @abstractmethod
    async def make(self) -> AsyncIterator[MakeTransport]:
        yield NotImplemented

    async def test_a_key_keeps_its_order_on_all_machines_and_through_retries(
        self, make: MakeTransport
    ) -> None:
        done: dict[str | None, list[str]] = {"a": [], "b": []}

        async def handle(one: Entry, times: int) -> Verdict:
            if int(one.payload) % 3 == 0 and times == 1:
                return Again(0.05)
            await asyncio.sleep(0)
            done[one.key].append(one.payload)
            return Done()

        for _ in range(2):
            await (await make()).consume(source(), Process(handle).deliver)
        sender = await make()
        for number in range(12):
            for key in done:
                await sender.send(entry(payload=str(number), key=key), command())
        await _until(lambda: sum(map(len, done.values())) >= 24)

        assert done == {key: [str(number) for number in range(12)] for key in ("a", "b")}

    async def test_the_same_id_within_the_window_is_one_message(self, make: MakeTransport) -> None:
        transport, there = await make(), Process()
        await transport.consume(source(), there.deliver)
        sent = entry()
        for _ in range(3):
            await transport.send(sent, command())
        await there.done(1)
        await nothing_more(transport)

        assert len(there.entries) == 1

    async def test_a_handler_that_takes_longer_than_the_patience_of_the_server_runs_once(
        self, make: MakeTransport
    ) -> None:
        async def handle(one: Entry, times: int) -> Verdict:
            await asyncio.sleep(HELD_S * 1.6)
            return Done()

        one, other, there = await make(), await make(), Process(handle)
        for transport in (one, other):
            await transport.consume(source(), there.deliver)
        await one.send(entry(), command())
        await one.send(entry(key="k"), command())
        await there.done(2)
        await nothing_more(one)

        assert there.times == [1, 1]


class RequestContract:
    """For transports that can ask and answer."""

    @pytest.fixture
    @abstractmethod
    async def make(self) -> AsyncIterator[MakeTransport]:
        yield NotImplemented

    async def test_a_request_is_answered_by_one_of_those_who_handle_it(
        self, make: MakeTransport
    ) -> None:
        async def handle(one: Entry, times: int) -> Verdict:
            return Done(one.payload * 2)

        asker, there = await make(), Process(handle)
        for group in ("one", "other"):
            await (await make()).consume(source(kind="request", group=group), there.deliver)
        address = Address(kind="request", name="Charge")
        replies = [await asker.request(entry(payload=f"{n}"), address, 5) for n in range(10)]

        assert replies == [f"{n}{n}" for n in range(10)]
        assert len(there.entries) == 10

    async def test_a_request_that_nobody_takes_is_refused_at_once(
        self, make: MakeTransport
    ) -> None:
        asker = await make()

        with pytest.raises(HandlerMissingError, match="Nobody handles 'Charge'"):
            await asker.request(entry(), Address(kind="request", name="Charge"), 30)

    async def test_a_dead_request_says_why(self, make: MakeTransport) -> None:
        async def handle(one: Entry, times: int) -> Verdict:
            return Again(0.01) if times < 3 else Dead('{"message":"nö"}')

        asker, there = await make(), Process(handle)
        await asker.consume(source(kind="request"), there.deliver)

        with pytest.raises(RequestFailedError) as failed:
            await asker.request(entry(), Address(kind="request", name="Charge"), 5)
        assert failed.value.error == '{"message":"nö"}'
        assert there.times == [1, 2, 3]

    @pytest.mark.parametrize("end", ["cancelled", "late"])
    async def test_a_caller_who_is_gone_cancels_the_handler(
        self, make: MakeTransport, end: str
    ) -> None:
        stopped = asyncio.Event()

        async def handle(one: Entry, times: int) -> Verdict:
            try:
                return await _for_ever(one, times)
            finally:
                stopped.set()

        asker, there = await make(), Process(handle)
        await (await make()).consume(source(kind="request"), there.deliver)
        address = Address(kind="request", name="Charge")
        patience_s = 0.5 if end == "late" else 60
        asking = asyncio.create_task(asker.request(entry(), address, patience_s))
        await there.got(1)
        if end == "cancelled":
            asking.cancel()

        with pytest.raises(TimeoutError if end == "late" else asyncio.CancelledError):
            await asking
        async with asyncio.timeout(SOON_S):
            await stopped.wait()

    async def test_a_request_whose_process_stops_goes_to_another(self, make: MakeTransport) -> None:
        asker, one, other = await make(), await make(), await make()
        here = Process(_for_ever)
        await one.consume(source(kind="request"), here.deliver)
        address = Address(kind="request", name="Charge")
        asking = asyncio.create_task(asker.request(entry(), address, SOON_S))
        await here.got(1)
        await other.consume(source(kind="request"), Process(_answer).deliver)
        await one.aclose()

        assert await asking == "there"


async def _for_ever(one: Entry, times: int) -> Verdict:
    await asyncio.Event().wait()
    return Done()


async def _answer(one: Entry, times: int) -> Verdict:
    return Done("there")


async def _until(enough: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not enough():  # noqa: ASYNC110 - several processes end, and each tells only its own.
            await asyncio.sleep(0.01)
