"""Refuses and writes down every connection and look-up beyond this machine.

Python loads a module of this name by itself when its folder is on the path.
"""

import os
import sys
from pathlib import Path

_CONNECTS = {"socket.connect", "socket.sendto"}
_LOOK_UPS = {"socket.getaddrinfo", "socket.gethostbyname"}


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event in _CONNECTS and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event in _LOOK_UPS:
        host = arguments[0]
    else:
        return
    if isinstance(host, str) and not host.startswith(("127.", "::1", "localhost")):
        with Path(os.environ["NETWORK_ATTEMPTS"]).open("a", encoding="utf-8") as attempts:
            attempts.write(f"{host}\n")
        raise OSError(f"the network is off: {host}")


sys.addaudithook(_watch)
