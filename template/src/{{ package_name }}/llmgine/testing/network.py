# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Keeps a test on this machine: what would leave it fails, and says what it wanted to reach."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_CONNECTS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_LOOK_UPS = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})
_HERE = frozenset({"", "localhost", "0.0.0.0", "::", "localhost.localdomain"})  # noqa: S104

# One list for each guard in force; Python cannot take an audit hook away again.
_guards: list[list[str]] = []
_hooked = False


class NetworkReachedError(AssertionError):
    """A test wanted to leave this machine."""

    def __init__(self, target: str) -> None:
        self.target = target
        super().__init__(
            f"A test reached for the network: {target}. Put a ScriptedProvider or another fake in "
            "the place of what calls it, or serve it on 127.0.0.1."
        )


@contextmanager
def no_network() -> Iterator[None]:
    """Refuse connections and look-ups beyond loopback, in all threads of this process.

    Unix sockets are allowed. Processes started from here are not watched, nor are libraries that
    open sockets without Python, such as uvloop.

    Raises:
        NetworkReachedError: on leaving, if there was an attempt, even one whose error was caught.
    """
    global _hooked
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked = True
    attempts: list[str] = []
    _guards.append(attempts)
    try:
        yield
    finally:
        # By identity: two guards without an attempt are equal.
        _guards[:] = [guard for guard in _guards if guard is not attempts]
    if attempts:
        raise NetworkReachedError(", ".join(dict.fromkeys(attempts)))


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _guards or not event.startswith("socket."):
        return
    if event in _CONNECTS:
        target = _target_of_connection(*arguments[:2])
    elif event in _LOOK_UPS:
        target = _target_of_look_up(arguments[0])
    else:
        return
    if target is not None:
        _guards[-1].append(target)
        raise NetworkReachedError(target)


def _target_of_connection(sock: socket.socket, address: object) -> str | None:
    if sock.family not in {socket.AF_INET, socket.AF_INET6} or not isinstance(address, tuple):
        return None
    return None if _is_here(address[0]) else f"a connection to {address[0]} port {address[1]}"


def _target_of_look_up(host: object) -> str | None:
    # A machine may look up its own name.
    if _is_here(host) or _text(host) == socket.gethostname():
        return None
    return f"a look-up of {_text(host)!r}"


def _text(host: object) -> str:
    return host.decode(errors="replace") if isinstance(host, bytes) else str(host)


def _is_here(host: object) -> bool:
    name = "" if host is None else _text(host).lower().rstrip(".")
    if name in _HERE or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
