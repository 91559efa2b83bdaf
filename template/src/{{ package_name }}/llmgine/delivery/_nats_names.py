# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Names for NATS: what may stand in a subject, and what an address says."""

from __future__ import annotations

import hashlib
import re
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import TransportError


def token(name: str) -> str:
    """The name as one part of a subject: what may not stand there is written as hex."""
    safe = re.sub(r"[^A-Za-z0-9_-]", lambda found: f"={found[0].encode().hex()}=", name) or "="
    if len(safe) > 150:
        safe = f"{safe[:100]}={hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return safe


def parsed(url: str) -> tuple[list[str], dict[str, str], str]:
    """The servers, the login, and what may be shown of it."""
    try:
        parts = [urlsplit(one if "://" in one else f"nats://{one}") for one in url.split(",")]
        servers = [f"{part.scheme}://{_host(part)}" for part in parts]
    except ValueError:
        raise TransportError(
            "The address of NATS cannot be read. Write nats://user:password@host:port, with %40 "
            "for an @ in the password, and so on."
        ) from None
    user, password = parts[0].username, parts[0].password
    login: dict[str, str] = {}
    if user is not None and password is not None:
        login = {"user": unquote(user), "password": unquote(password)}
    elif user is not None:
        login = {"token": unquote(user)}
    return servers, login, ", ".join(map(_host, parts))


def _host(part: Any) -> str:
    host = part.hostname or ""
    if not host or part.scheme not in {"nats", "tls", "ws", "wss"}:
        raise ValueError(host)
    return f"{f'[{host}]' if ':' in host else host}:{part.port or 4222}"
