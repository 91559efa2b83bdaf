"""The bus's counters, read by OpenTelemetry's own SDK."""

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from app.llmgine.bus import MessageBus
from app.llmgine.bus.metrics import register_instruments
from app.llmgine.delivery.journal import Entry
from app.llmgine.delivery.sqlite import SQLiteJournal
from app.llmgine.messages import Command, Event
from app.llmgine.testing import FakeClock

S = 1_000_000_000


class Add(Command[int]):
    n: int


class Added(Event):
    n: int


async def add(command: Add) -> int:
    return 10 // command.n


async def note(event: Added) -> None:
    pass


def points(reader: InMemoryMetricReader, name: str) -> dict[tuple[str, ...], int]:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        tuple((point.attributes or {}).values()): point.value
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    }


async def test_the_counters_of_each_handler_are_read_when_they_are_collected():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    bus = MessageBus()
    bus.register_command_handler(Add, add)
    bus.register_event_handler(Added, note)
    register_instruments(bus, provider.get_meter("test"))

    async with bus:
        await bus.execute(Add(n=1))
        await bus.try_execute(Add(n=0))
        await bus.publish(Added(n=1))
        queued = points(reader, "llmgine.bus.queued")
        await bus.idle()
        counted = points(reader, "llmgine.bus.messages")
    provider.shutdown()

    assert queued == {(f"{__name__}.note", "Added"): 1}
    assert counted == {
        (f"{__name__}.add", "Add", "handled"): 1,
        (f"{__name__}.add", "Add", "failed"): 1,
        (f"{__name__}.note", "Added", "handled"): 1,
        (f"{__name__}.note", "Added", "failed"): 0,
        (f"{__name__}.note", "Added", "dropped"): 0,
    }


async def test_depth_age_and_lag_of_the_journal_are_read_as_they_were_last_seen():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    clock = FakeClock()
    now_ns = int(clock.now().timestamp() * 1e9)
    journal = SQLiteJournal(":memory:")
    await journal.open()
    await journal.append(
        [
            Entry(
                id=str(age_s), route=route, name=name, payload="{}", created_ns=now_ns - age_s * S
            )
            for age_s, route, name in (
                (2, "command Add", "Add"),
                (5, "command Add", "Add"),
                (9, "event audit", "Added"),
            )
        ]
    )
    bus = MessageBus(journal=journal, clock=clock, work=False)
    register_instruments(bus, provider.get_meter("test"))

    async with bus:
        depths = points(reader, "llmgine.queue.depth")
        ages = points(reader, "llmgine.queue.oldest_age")
        lag = points(reader, "llmgine.queue.lag")
    provider.shutdown()

    assert depths == {("command Add", "Add"): 2, ("event audit", "Added"): 1}
    assert ages == {("command Add", "Add"): 5, ("event audit", "Added"): 9}
    assert lag == {(): 9}


async def test_a_bus_without_a_journal_has_no_lag():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    bus = MessageBus()
    register_instruments(bus, provider.get_meter("test"))

    async with bus:
        lag = points(reader, "llmgine.queue.lag")
    provider.shutdown()

    assert lag == {}
