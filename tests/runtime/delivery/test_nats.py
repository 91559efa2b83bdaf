"""What is special to NATS: broken servers, logins, dead letters, what stands on the server."""

import asyncio
import contextlib
import gc
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.delivery import nats as shipped
from app.llmgine.delivery._nats_names import token
from app.llmgine.delivery.journal import Entry
from app.llmgine.delivery.nats import NatsTransport
from app.llmgine.delivery.transport import Address, Again, Dead, Done, Verdict
from app.llmgine.errors import ConfigurationError, TransportError
from app.llmgine.messages import new_id
from faults.proxy import FaultProxy
from runtime.delivery.transport_contract import HELD_S, Process, command, entry, source
from servers import HOST, NatsServer, ask, free_port

ROOM = 9_000_000
SECRET = "s3cret/pass"


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[NatsTransport]:
    transport = NatsTransport(
        url, **{"ack_wait_s": HELD_S, "shards": 2, "stream_bytes": ROOM, **options}
    )
    await transport.open()
    try:
        yield transport
    finally:
        await transport.aclose()


@contextlib.asynccontextmanager
async def looking(url: str) -> AsyncIterator[Any]:
    client = await nats.connect(url)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def dead_letters(url: str, count: int) -> list[str]:
    async with looking(url) as streams, asyncio.timeout(10):
        letters = await streams.pull_subscribe("llmgine.dead.>", stream="llmgine-dead")
        found: list[str] = []
        while len(found) < count:
            found += [one.data.decode(errors="replace") for one in await letters.fetch(1)]
        return found


async def taken(url: str, count: int) -> None:
    """Return when so many commands were handed out and are not acknowledged."""
    async with looking(url) as streams, asyncio.timeout(10):
        out = 0
        while out < count:
            await asyncio.sleep(0.05)
            consumers = await streams.consumers_info("llmgine-commands")
            out = sum(one.num_ack_pending for one in consumers)


async def sent(transport: NatsTransport, one: Entry, address: Address) -> None:
    """Send it as the bus does: until the server has it."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(TransportError):
                return await transport.send(one, address)


class Configured(NatsServer):
    """A server with these settings only."""

    settings = ""

    def prepare(self) -> None:
        (self.folder / "server.conf").write_text(
            f'host: "{HOST}"\nport: {self.port}\nserver_name: {self.token}\n{self.settings}',
            encoding="utf-8",
        )

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    def identity(self) -> str:
        found = re.search(r'"server_name":"(\w+)"', ask(self.address, b""))
        return found[1] if found else ""


class WithoutJetStream(Configured):
    pass


class WithPassword(Configured):
    settings = (
        f'jetstream {{ store_dir: "data" }}\nauthorization {{ user: "ann", password: "{SECRET}" }}'
    )


class Forgetful(WithPassword):
    """Its password is another for a while."""

    def restart_with(self, password: str) -> None:
        self.kill()
        self.settings = WithPassword.settings.replace(SECRET, password)
        self.prepare()
        self.start()


class WithoutRights(Configured):
    settings = """
        jetstream { store_dir: "data" }
        authorization { users: [{
            user: "ann", password: "p", permissions: { publish: { deny: "$JS.API.STREAM.>" } }
        }] }
    """

    @property
    def url(self) -> str:
        return f"nats://ann:p@{HOST}:{self.port}"


class Shipped(Configured):
    def prepare(self) -> None:
        text = Path(shipped.__file__).with_name("nats.conf").read_text(encoding="utf-8")
        self.settings = re.sub(r"(?m)^(host|port):.*\n", "", text)
        super().prepare()


@pytest.fixture
def own_server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.mark.parametrize(
    ("kind", "login", "said"),
    [
        (None, "", "See that the server runs"),
        (WithoutJetStream, "", "Start it with JetStream"),
        (WithPassword, "", "Correct the user and password"),
        (WithPassword, f"ann:{SECRET[:-1].replace('/', '%2F')}@", "Correct the user and password"),
        (WithoutRights, "ann:p@", "Give the user the rights.*"),
    ],
)
async def test_a_server_that_cannot_be_used_is_refused_soon_with_the_fix(
    kind: type[Configured] | None, login: str, said: str
) -> None:
    with kind() if kind else contextlib.nullcontext() as server:
        port = server.port if server else free_port()
        transport = NatsTransport(f"nats://{login}{HOST}:{port}", stream_bytes=ROOM)
        began = time.monotonic()

        with pytest.raises(TransportError, match=f"NATS at {HOST}:{port} .*{said}") as refused:
            await transport.open()
        assert time.monotonic() - began < 12
        assert SECRET[:6] not in str(refused.value)
        with pytest.raises(TransportError):
            await transport.check()


async def test_a_password_with_special_characters_is_written_with_percent_signs() -> None:
    with WithPassword() as server:
        login = f"ann:{SECRET.replace('/', '%2F')}@"
        async with opened(f"nats://{login}{HOST}:{server.port}") as transport:
            assert "JetStream" in await transport.check()


async def test_a_name_that_is_not_known_and_a_server_that_is_silent_are_no_hang(
    fault_proxy: FaultProxy, nats_server: NatsServer
) -> None:
    await fault_proxy.open(nats_server.address)
    fault_proxy.blackhole()
    for url in (
        "nats://no-such-host.invalid:4222",
        nats_server.through(fault_proxy.port, nats_server.url),
    ):
        with pytest.raises(TransportError, match="failed to connect"):
            async with asyncio.timeout(10):
                await NatsTransport(url).open()


@pytest.mark.parametrize("url", ["nats://user:pa/ss@host:4222", "http://host", "nats://"])
def test_an_address_that_cannot_be_read_is_not_shown(url: str) -> None:
    with pytest.raises(TransportError, match="Write nats://") as refused:
        NatsTransport(url)
    assert "pa" not in str(refused.value).replace("password", "").replace("part", "")
    with pytest.raises(ConfigurationError, match="letters"):
        NatsTransport("nats://host", prefix="my.app")


async def test_the_shipped_configuration_runs_a_server_that_writes_through() -> None:
    with Shipped() as server:
        assert "sync_interval: always" in server.settings
        async with opened(server.url) as transport:
            there = Process()
            await transport.consume(source(), there.deliver)
            await transport.send(entry(payload="7"), command())

            assert await there.done(1) == ["7"]
            assert re.fullmatch(
                rf"NATS [\d.]+ at {HOST}:{server.port}: JetStream, 4 streams .*, replicas 1",
                await transport.check(),
            )


async def test_work_goes_on_when_a_killed_server_is_back(own_server: NatsServer) -> None:
    go_on = asyncio.Event()

    async def handle(one: Entry, times: int) -> Verdict:
        if one.payload == '"in hand"':
            await go_on.wait()
        return Done()

    async with opened(own_server.fresh_url()) as transport:
        there = Process(handle)
        await transport.consume(source(), there.deliver)
        await transport.send(entry(payload='"in hand"'), command())
        await there.got(1)
        own_server.kill()
        began = time.monotonic()
        with pytest.raises(TransportError, match=r"[Ss]ee that the server runs"):
            await transport.send(entry(), command())
        assert time.monotonic() - began < 12
        with pytest.raises(TransportError):
            await transport.check()
        go_on.set()
        own_server.start()
        for key in (None, "k"):
            await sent(transport, entry(payload=f'"{key}"', key=key), command())
        await there.done(3)

        assert sorted(there.payloads) == ['"None"', '"in hand"', '"k"']
        assert await transport.check()


async def test_keyed_work_goes_on_each_time_a_server_is_killed_amid_it(
    own_server: NatsServer,
) -> None:
    stored: set[str] = set()
    handled: set[str] = set()
    hushed, progress = asyncio.Event(), asyncio.Event()

    async def handle(one: Entry, times: int) -> Verdict:
        handled.add(one.payload)
        progress.set()
        return Done()

    async def send_on(key: str) -> None:
        while not hushed.is_set():
            one = entry(payload=new_id(), key=key)
            await sent(transport, one, command())
            stored.add(one.payload)

    async def until(enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not enough():
                progress.clear()
                await progress.wait()

    async def fifty_more() -> None:
        enough = len(handled) + 50
        await until(lambda: len(handled) >= enough)

    async with opened(own_server.fresh_url()) as transport, asyncio.TaskGroup() as senders:
        await transport.consume(source(), Process(handle).deliver)
        for key in "abcd":
            senders.create_task(send_on(key))
        for _ in range(3):
            await fifty_more()
            await asyncio.to_thread(own_server.kill)
            await asyncio.to_thread(own_server.start)
        hushed.set()

        await until(lambda: stored <= handled)


# Each time a login is refused, nats-py forgets to close its socket.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_login_that_is_refused_for_a_while_is_tried_again() -> None:
    with Forgetful() as server:
        login = f"ann:{SECRET.replace('/', '%2F')}@"
        async with opened(f"nats://{login}{HOST}:{server.port}") as transport:
            there = Process()
            await transport.consume(source(), there.deliver)
            await transport.consume(source(kind="request"), there.deliver)
            server.restart_with("another")
            with pytest.raises(TransportError):
                await transport.send(entry(), command())
            server.restart_with(SECRET)
            await sent(transport, entry(payload="7"), command())

            assert await there.done(1) == ["7"]
            address = Address(kind="request", name="Charge")
            assert await transport.request(entry(), address, 10) == ""
    gc.collect()


@pytest.mark.parametrize("lost", ["consumers", "streams"])
async def test_work_goes_on_when_the_server_has_lost_what_stood_on_it(
    nats_server: NatsServer, lost: str
) -> None:
    url = nats_server.fresh_url()
    async with opened(url) as transport, looking(url) as streams:
        there = Process()
        await transport.consume(source("Paid", kind="event", group="bills"), there.deliver)
        paid = Address(kind="event", name="Paid")
        await transport.send(entry("Paid", "1"), paid)
        await there.done(1)
        if lost == "consumers":
            for one in await streams.consumers_info("llmgine-events"):
                await streams.delete_consumer("llmgine-events", one.name)
        else:
            await streams.delete_stream("llmgine-events")
        await sent(transport, entry("Paid", "2"), paid)
        async with asyncio.timeout(20):
            while "2" not in there.payloads:
                await there.got(len(there.entries) + 1)


async def test_what_a_lost_process_had_in_hand_comes_to_another(
    fault_proxy: FaultProxy, nats_server: NatsServer
) -> None:
    url = nats_server.fresh_url()
    await fault_proxy.open(nats_server.address)
    here, there = Process(_for_ever), Process()
    async with opened(url) as other:
        async with opened(nats_server.through(fault_proxy.port, url)) as lost:
            await lost.consume(source(), here.deliver)
            await lost.send(entry(payload="1", key="k"), command())
            await lost.send(entry(payload="2", key="k"), command())
            await here.got(1)
            await other.consume(source(), there.deliver)
            fault_proxy.blackhole()

            assert await there.done(2) == ["1", "2"]
            assert there.times == [2, 1]
            fault_proxy.forward()


async def test_what_was_taken_ahead_is_handed_back_when_taking_stops(
    nats_server: NatsServer,
) -> None:
    go_on = asyncio.Event()

    async def handle(one: Entry, times: int) -> Verdict:
        await go_on.wait()
        return Done()

    url = nats_server.fresh_url()
    async with opened(url, ack_wait_s=60.0) as one, opened(url, ack_wait_s=60.0) as other:
        here, there = Process(handle), Process()
        stop = await one.consume(source(concurrency=1), here.deliver)
        for key in (None, "a", "d"):  # Each in a shard of its own.
            await one.send(entry(payload=f"{key}", key=key), command())
            await here.got(1)
        await taken(url, 3)
        stopping = asyncio.ensure_future(stop())
        await other.consume(source(), there.deliver)

        assert sorted(await there.done(2)) == ["a", "d"]
        assert here.payloads == ["None"]
        go_on.set()
        await stopping


async def test_a_dead_message_is_kept_with_its_error(nats_server: NatsServer) -> None:
    async def handle(one: Entry, times: int) -> Verdict:
        return Dead('{"message":"no\\nway"}')

    url = nats_server.fresh_url()
    async with opened(url) as transport:
        there = Process(handle)
        await transport.consume(source(), there.deliver)
        await transport.send(entry(payload='{"n":7}'), command())
        await there.done(1)
        (letter,) = await dead_letters(url, 1)

    error, head, payload = letter.split("\n")
    assert (error, payload) == ('{"message":"no\\nway"}', '{"n":7}'.replace("\\n", "\n"))
    assert '"Charge"' in head


async def test_a_message_handed_out_too_often_is_dead_without_being_handled(
    nats_server: NatsServer,
) -> None:
    async def handle(one: Entry, times: int) -> Verdict:
        return Again(0.0)

    url = nats_server.fresh_url()
    async with opened(url, max_deliveries=3) as transport:
        there = Process(handle)
        await transport.consume(source(), there.deliver)
        await transport.send(entry(), command())
        (letter,) = await dead_letters(url, 1)

    assert "WorkerLostError" in letter
    assert there.times == [1, 2, 3]


async def test_what_is_no_message_is_dead_and_blocks_nobody(nats_server: NatsServer) -> None:
    url = nats_server.fresh_url()
    async with opened(url) as transport, looking(url) as streams:
        there = Process()
        for noise in (b"", b"\xff\xfe", b'[2,"of a later form"]\n{}', b'{"json": 1}'):
            await streams.publish("llmgine.command.Charge.0", noise)
        await transport.send(entry(payload="7", key="k"), command())
        await transport.consume(source(), there.deliver)

        assert await there.done(1) == ["7"]
        letters = await dead_letters(url, 4)
    assert ["MessageUnreadableError" in one for one in letters] == [True] * 4


async def test_a_large_message_is_kept_apart_until_it_is_handled(nats_server: NatsServer) -> None:
    url = nats_server.fresh_url()
    async with opened(url, claim_check_bytes=1_000) as transport, looking(url) as streams:
        there, one = Process(), entry(payload='"' + "x" * 2_000 + '"')
        await transport.send(one, command())
        held = (await streams.stream_info("llmgine-commands")).state.bytes
        bucket = await streams.object_store("llmgine-payloads")
        assert (await bucket.get_info(f"command/{one.id}")).size > 2_000
        assert held < 1_000

        stop = await transport.consume(source(), there.deliver)
        assert await there.done(1) == [one.payload]
        await stop()
        with pytest.raises(nats.js.errors.ObjectNotFoundError):
            await bucket.get_info(f"command/{one.id}")


async def test_a_message_whose_content_is_gone_is_dead(nats_server: NatsServer) -> None:
    url = nats_server.fresh_url()
    async with opened(url, claim_check_bytes=100) as transport, looking(url) as streams:
        one = entry(payload='"' + "x" * 200 + '"')
        await transport.send(one, command())
        await (await streams.object_store("llmgine-payloads")).delete(f"command/{one.id}")
        await transport.consume(source(), Process().deliver)
        (letter,) = await dead_letters(url, 1)

    assert "Send it again" in letter


async def test_handled_commands_leave_the_stream_and_waiting_ones_stay(
    nats_server: NatsServer,
) -> None:
    async def handle(one: Entry, times: int) -> Verdict:
        return Again(60) if one.payload == "later" else Done()

    url = nats_server.fresh_url()
    async with opened(url) as transport, looking(url) as streams:
        there = Process(handle)
        await transport.consume(source(), there.deliver)
        for number in range(50):
            await transport.send(entry(payload=str(number)), command())
        await transport.send(entry(payload="later"), command())
        await transport.send(entry("Refund"), command("Refund"))
        await there.done(51)

        async with asyncio.timeout(20):
            while (await streams.stream_info("llmgine-commands")).state.messages != 2:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def test_a_stream_that_is_there_keeps_its_settings(nats_server: NatsServer) -> None:
    url = nats_server.fresh_url()
    async with looking(url) as streams:
        await streams.add_stream(name="llmgine-events", subjects=["llmgine.event.>"], max_age=77)
        async with opened(url) as transport:
            assert await transport.check()
        assert (await streams.stream_info("llmgine-events")).config.max_age == 77


async def test_a_full_stream_refuses_and_loses_nothing(nats_server: NatsServer) -> None:
    async with opened(nats_server.fresh_url(), stream_bytes=5_000) as transport:
        there, stored = Process(), 0
        with pytest.raises(TransportError, match="Its stream is full"):
            for stored in range(1_000):
                await transport.send(entry(payload=str(stored)), command())
        await transport.consume(source(), there.deliver)
        await there.done(stored)

        assert sorted(map(int, there.payloads)) == list(range(stored))


@given(st.lists(st.text(max_size=200), min_size=2, max_size=2, unique=True))
def test_every_name_is_a_part_of_a_subject_of_its_own(names: list[str]) -> None:
    one, other = map(token, (name.encode(errors="replace").decode() for name in names))

    assert re.fullmatch(r"[A-Za-z0-9_=-]{1,200}", one)
    same = names[0].encode(errors="replace") == names[1].encode(errors="replace")
    assert (one == other) is same


async def _for_ever(one: Entry, times: int) -> Verdict:
    await asyncio.Event().wait()
    return Done()


async def test_a_promise_of_tls_sends_no_login_to_a_server_without(
    nats_server: NatsServer,
) -> None:
    transport = NatsTransport(nats_server.fresh_url().replace("nats://", "tls://"))

    with pytest.raises(TransportError, match="does not ask for TLS, so nothing was sent"):
        await transport.open()
