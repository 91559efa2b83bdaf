"""The package `python-cqrs`: a mediator by `bootstrap`, as its README makes one.

What `bootstrap` adds is mostly a logging middleware, so the mediators are also measured alone, as
their docstrings build them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cqrs
import di
from cqrs.bootstrap import requests as bootstrap
from cqrs.container.di import DIContainer

from ..measure import CpuTimer
from .subject import Handled, Subject


@dataclass
class Greeting(cqrs.DCResponse):
    text: str


@dataclass
class Greet(cqrs.DCRequest):
    user: int
    text: str


class Greeted(cqrs.DomainEvent):
    user: int
    text: str


def _requests(handled: Handled) -> cqrs.RequestMap[Any]:
    class GreetHandler(cqrs.RequestHandler[Greet, Greeting]):
        async def handle(self, request: Greet) -> Greeting:
            handled.count += 1
            return Greeting(text=request.text)

    requests: cqrs.RequestMap[Any] = cqrs.RequestMap()
    requests.bind(Greet, GreetHandler)
    return requests


async def _send(mediator: cqrs.RequestMediator, count: int, timer: CpuTimer) -> None:
    with timer:
        for number in range(count):
            await mediator.send(Greet(user=number, text="hello"))


async def commands_alone(count: int, timer: CpuTimer, handled: Handled) -> None:
    mediator = cqrs.RequestMediator(request_map=_requests(handled), container=_container())
    await _send(mediator, count, timer)


async def commands(count: int, timer: CpuTimer, handled: Handled) -> None:
    def bind(mapper: cqrs.RequestMap[Any]) -> None:
        mapper.update(_requests(handled))

    mediator = bootstrap.bootstrap(di_container=di.Container(), commands_mapper=bind)
    await _send(mediator, count, timer)


async def events(count: int, handlers: int, timer: CpuTimer, handled: Handled) -> None:
    def handler() -> type[cqrs.EventHandler[Greeted]]:
        class GreetedHandler(cqrs.EventHandler[Greeted]):
            async def handle(self, event: Greeted) -> None:
                handled.count += 1

        return GreetedHandler

    subscribed: cqrs.EventMap[Any, Any] = cqrs.EventMap()
    for _ in range(handlers):
        subscribed.bind(Greeted, handler())
    mediator = cqrs.EventMediator(event_map=subscribed, container=_container())
    with timer:
        for number in range(count):
            await mediator.send(Greeted(user=number, text="hello"))


def _container() -> DIContainer:
    container = DIContainer()
    container.attach_external_container(di.Container())
    return container


SUBJECT = Subject("python-cqrs", commands, events, rounds_of=2_000)
ALONE = Subject("python-cqrs, mediator alone", commands_alone, events, rounds_of=2_000)
