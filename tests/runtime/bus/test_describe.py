"""What a bus tells of itself: as data, as a graph and as an AsyncAPI document."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import ConfigDict, Field

from app.llmgine.bus import Batch, MessageBus, Middleware
from app.llmgine.bus.describe import BusDescription
from app.llmgine.messages import Command, Event, Message


class Address(Message):
    street: str
    next: "Address | None" = None


class Quote(Command[dict[str, Address]]):
    to: Address
    pieces: int = 1


class Print(Command):
    text: str


class Follow(Command[AsyncIterator[Address]]):
    to: Address


class Moved(Event):
    to: Address
    why: str = "none given"


class MovedFar(Moved):
    km: float


@dataclass(frozen=True, slots=True)
class Twice:
    label: str

    def bind(self, bus: MessageBus) -> Middleware:
        async def run(message, envelope, call_next):
            return await call_next()

        return run


async def around(message, envelope, call_next):
    return await call_next()


async def quote(command: Quote) -> dict[str, Address]:
    return {"best": command.to}


async def print_text(command: Print) -> None:
    if not command.text:
        raise ValueError("nothing to print")


async def follow(command: Follow) -> AsyncIterator[Address]:
    yield command.to


async def note(event: Moved) -> None: ...


async def count(event: Moved) -> None: ...


async def audit(event: Event) -> None: ...


async def file(events: list[MovedFar]) -> None: ...


def a_bus() -> MessageBus:
    bus = MessageBus(middleware=[around])
    bus.register_command_handler(Quote, quote, middleware=[Twice("a<b"), around])
    bus.register_command_handler(Print, print_text)
    bus.register_command_handler(Follow, follow)
    bus.register_event_handler(Moved, [note, count], where=lambda event: bool(event.why))
    bus.register_batch_handler(MovedFar, file, size=5, within_s=2, capacity=7)
    return bus


def here(name: str) -> str:
    return f"{__name__}.{name}"


def handler(description: BusDescription, name: str) -> Any:
    (found,) = (one for one in description.handlers if one.handler.endswith(name))
    return found


def test_before_the_start_everything_registered_is_told():
    told = a_bus().describe()

    assert told.state == "new"
    assert told.policies == (here("around"),)
    assert [(one.name, one.kind, one.result) for one in told.messages] == [
        ("Follow", "stream", "Address"),
        ("Print", "command", "None"),
        ("Quote", "command", f"dict[str, {here('Address')}]"),
        ("Moved", "event", None),
        ("MovedFar", "event", None),
    ]
    assert handler(told, "quote").policies == ("Twice(label='a<b')", here("around"))
    group = f"{here('note')}, {here('count')}"
    by_name = {one.name: one.handlers for one in told.messages}
    assert by_name["Moved"] == (group,)
    assert by_name["MovedFar"] == (group, here("file"))


async def test_while_it_runs_counters_and_lanes_are_exact():
    running, release = asyncio.Event(), asyncio.Event()

    async def hold(event: MovedFar) -> None:
        running.set()
        await release.wait()
        raise ValueError

    bus = a_bus()
    bus.register_event_handler(MovedFar, hold, capacity=3, concurrency=1, overflow="drop_new")

    async with bus:
        await bus.execute(Print(text="one"))
        await bus.execute(Print(text="two"))
        await bus.try_execute(Print(text=""))
        far = MovedFar(to=Address(street="x"), km=1)
        await bus.publish(far)
        await running.wait()
        for _ in range(5):
            await bus.publish(far)
        during = bus.describe()
        release.set()
        await bus.idle()
        after = bus.describe()

    printed, holding = handler(during, "print_text"), handler(during, "hold")
    assert (printed.handled, printed.failed, printed.lane) == (2, 1, None)
    assert (holding.lane.queued, holding.lane.dropped, holding.handled) == (3, 2, 0)
    assert (holding.lane.capacity, holding.lane.concurrency) == (3, 1)
    assert (holding.lane.overflow, holding.lane.filtered) == ("drop_new", False)
    held = handler(after, "hold")
    assert (held.failed, held.handled, held.lane.queued) == (4, 0, 0)
    assert (during.state, during.dead_letters, after.dead_letters) == ("running", 0, 4)
    filed = handler(after, "file")
    assert (filed.handled, filed.lane.batch) == (6, Batch(size=5, within_s=2))
    assert handler(after, "count").lane.filtered
    assert bus.describe().state == "stopped"


async def test_a_running_command_is_counted_as_running():
    seen = []

    async def look(_: Print) -> None:
        seen.append(bus.describe())

    bus = MessageBus()
    bus.register_command_handler(Print, look)

    async with bus:
        await bus.execute(Print(text=""))

    assert (seen[0].running, seen[0].handlers[0].handled) == (1, 0)
    assert (bus.describe().running, bus.describe().handlers[0].handled) == (0, 1)


async def test_the_handlers_of_a_session_are_told_while_it_is_open():
    async def own(_: Print) -> None: ...

    async with a_bus() as bus:
        async with bus.session("s1") as session:
            session.register_command_handler(Print, own)
            session.register_event_handler(Moved, count)
            await session.execute(Print(text="x"))
            during = bus.describe()
        after = bus.describe()

    in_session = {one.handler: one for one in during.handlers if one.session_id == "s1"}
    assert in_session.keys() == {here(own.__qualname__), here("count")}
    assert in_session[here(own.__qualname__)].handled == 1
    assert in_session[here("count")].lane.concurrency == 1
    assert handler(during, "print_text").handled == 0
    assert (during.sessions, after.sessions) == (1, 0)
    assert len(after.handlers) == len(during.handlers) - 2


def test_the_data_is_json():
    data = a_bus().describe().as_data()

    assert json.loads(json.dumps(data))["handlers"][4]["lane"] is None
    assert [one["name"] for one in data["messages"]][:2] == ["Follow", "Print"]


def test_the_handler_of_all_events_is_told_for_each_class_of_them():
    bus = MessageBus()
    bus.register_event_handler(Event, audit)

    told = bus.describe()

    assert [one.message for one in told.handlers] == ["Event"]
    names = {one.name: one.handlers for one in told.messages}
    assert names["MovedFar"] == (here("audit"),)
    assert "Event" not in names


def two_named_alike() -> MessageBus:
    def one() -> type[Event]:
        class Opened(Event): ...

        return Opened

    def other() -> type[Event]:
        class Opened(Event): ...

        return Opened

    bus = MessageBus()
    bus.register_event_handler(one(), audit)
    bus.register_event_handler(other(), audit)
    return bus


def test_two_messages_of_the_same_name_are_told_apart():
    told = two_named_alike().describe()

    names = [one.name for one in told.messages]
    assert len(set(names)) == 2
    assert [one.message for one in told.handlers] == names
    assert len(told.asyncapi("x", "1")["channels"]) == 2


def test_the_graph_has_each_message_each_handler_and_the_arrows_between():
    text = a_bus().describe().mermaid()

    head, *lines = text.splitlines()
    labels = dict(re.findall(r'(\w+)(?:\[\[|\(\[|\[)"(.*)"', text))
    arrows = re.findall(r"(\w+) --> (\w+)", text)
    assert head == "flowchart LR"
    assert len(lines) == len(labels) + len(arrows)
    named = [(labels[left], labels[right].split("<br/>")[0]) for left, right in arrows]
    group = f"{here('note')}, {here('count')}"
    assert named == [
        ("Follow → Address", here("follow")),
        ("Print", here("print_text")),
        (f"Quote → dict[str, {here('Address')}]", here("quote")),
        ("Moved", group),
        ("MovedFar", group),
        ("MovedFar", here("file")),
    ]
    assert 'm3(["Moved"])' in text
    assert 'm1["Print"]' in text


def test_in_the_graph_nothing_in_a_name_is_taken_for_markup():
    async def local(command: Print) -> None: ...

    bus = MessageBus()
    bus.register_command_handler(Print, local, middleware=[Twice('"] & #35; <b>')])

    text = bus.describe().mermaid()

    (label,) = re.findall(r'h0\[\["(.*)"\]\]', text)
    name, policy = label.split("<br/>")
    assert "#60;locals#62;.local" in name
    assert policy == "Twice(label='#34;] #38; #35;35; #60;b#62;')"


def references(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        for key, value in document.items():
            if key == "$ref":
                yield value
            yield from references(value)
    elif isinstance(document, list):
        for value in document:
            yield from references(value)


def resolved(document: Any, reference: str) -> Any:
    assert reference.startswith("#/"), reference
    for part in reference[2:].split("/"):
        document = document[part]
    return document


def payload_check(document: Any, name: str) -> Callable[[Any], None]:
    payload = document["components"]["messages"][name]["payload"]
    schema = {**payload, "components": document["components"]}
    jsonschema.Draft202012Validator.check_schema(payload)
    return jsonschema.Draft202012Validator(schema).validate


def test_in_the_asyncapi_document_every_reference_leads_somewhere():
    document = json.loads(json.dumps(a_bus().describe().asyncapi("My app", "1.2")))

    found = list(references(document))
    assert len(found) > 20
    assert all(resolved(document, reference) for reference in found)
    assert document["info"] == {"title": "My app", "version": "1.2"}
    assert document["channels"].keys() == {"Quote", "Print", "Follow", "Moved", "MovedFar"}


def test_the_schemas_of_the_asyncapi_document_take_real_messages():
    document = a_bus().describe().asyncapi("My app", "1.2")
    home = Address(street="here", next=Address(street="there"))

    for message in (Quote(to=home), Print(text=""), Follow(to=home), MovedFar(to=home, km=2)):
        payload_check(document, type(message).__name__)(message.model_dump(mode="json"))
    payload_check(document, "Quote")({"to": {"street": "here"}})
    for wrong in ({"to": {"street": 1}}, {"to": {"street": ""}, "more": 1}, {}):
        with pytest.raises(jsonschema.ValidationError):
            payload_check(document, "Quote")(wrong)


def test_a_tagged_union_is_not_told_in_the_words_of_openapi():
    class Circle(Message):
        kind: Literal["circle"] = "circle"

    class Square(Message):
        kind: Literal["square"] = "square"

    class Drawn(Event):
        discriminator: Annotated[Circle | Square, Field(discriminator="kind")]

    bus = MessageBus()
    bus.register_event_handler(Drawn, audit)

    document = bus.describe().asyncapi("My app", "1.2")

    check = payload_check(document, "Drawn")
    check({"discriminator": {"kind": "square"}})
    with pytest.raises(jsonschema.ValidationError):
        check({"discriminator": {"kind": "star"}})
    schema = document["components"]["schemas"]["Drawn"]["properties"]["discriminator"]
    assert "discriminator" not in schema


def test_commands_with_a_result_have_a_reply_in_the_asyncapi_document():
    document = a_bus().describe().asyncapi("My app", "1.2")
    home = Address(street="here").model_dump(mode="json")

    def reply(command: str) -> Any:
        return document["operations"][f"handle{command}"].get("reply")

    assert reply("Quote") == {
        "channel": {"$ref": "#/channels/Quote"},
        "messages": [{"$ref": "#/channels/Quote/messages/Quote.result"}],
    }
    payload_check(document, "Quote.result")({"best": home})
    payload_check(document, "Follow.result")(home)
    assert reply("Print") is None
    assert reply("Moved") is None


def test_what_json_has_no_words_for_may_be_anything():
    class Lock:
        pass

    class Unlock(Command[Lock]):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        lock: Lock

    async def unlock(command: Unlock) -> Lock:
        return command.lock

    bus = MessageBus()
    bus.register_command_handler(Unlock, unlock)

    document = bus.describe().asyncapi("My app", "1.2")

    payloads = document["components"]["messages"]
    assert payloads == {"Unlock": {"payload": {}}, "Unlock.result": {"payload": {}}}


def test_a_bus_with_nothing_is_told_too():
    told = MessageBus().describe()

    assert told.handlers == ()
    assert told.mermaid() == "flowchart LR"
    assert told.asyncapi("x", "1")["channels"] == {}
