# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""One server over aiohttp. Only this module imports it, and only the first call imports this."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from contextlib import suppress
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from ...errors import LLMError, LLMErrorKind
from ._failures import Origin

_DRAIN_S = 0.25
_LARGE_BYTES = 2**20
_MAX_HEADER_BYTES = 2**16
_FAILURES = (aiohttp.ClientError, OSError)  # TimeoutError is an OSError.


class HttpServer:
    """Posts to one address, over connections that are kept for the next call.

    Connections belong to the event loop they were opened in, so there is a pool for each loop.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = URL(url)
        self._headers = headers
        self._proxy = _proxy_for(self._url)
        self._sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}

    async def post(
        self, body: bytes, origin: Origin, *, total_s: float | None, silence_s: float
    ) -> HttpReply:
        """The server's reply, for the caller to close.

        Args:
            body: JSON.
            origin: who is asked, for the errors.
            total_s: for the whole call, reading included.
            silence_s: for each wait: for the connection, the reply, the next piece of it.

        Raises:
            LLMError: the server cannot be reached, or is too slow.
        """
        if self._proxy is not None and self._proxy.scheme not in ("http", "https"):
            raise _of_proxy(self._proxy, "is no HTTP proxy", origin)
        # Each timer costs time in every call: none that another one forestalls.
        is_forestalled = total_s is not None and total_s <= silence_s
        limits = aiohttp.ClientTimeout(
            total=total_s, connect=silence_s, sock_read=None if is_forestalled else silence_s
        )
        try:
            response = await self._session().post(
                self._url,
                # aiohttp warns of large bodies that are sent at once; files are sent in pieces.
                data=body if len(body) < _LARGE_BYTES else io.BytesIO(body),
                headers=self._headers,
                timeout=limits,
                proxy=self._proxy,
                allow_redirects=False,
            )
        except _FAILURES as error:
            raise _explained(error, origin, limits, self._proxy) from _shown(error)
        return HttpReply(response, origin, limits)

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            # How many calls run at once is the caller's decision, not the pool's.
            # Uvicorn and Node close what was idle for 5 s. A call that meets the end would fail.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4)
            session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                max_field_size=_MAX_HEADER_BYTES,
            )
            self._sessions[loop] = session
        return session

    async def aclose(self) -> None:
        sessions, self._sessions = self._sessions, {}
        for loop, session in sessions.items():
            if loop.is_running() and loop is not asyncio.get_running_loop():
                closing = asyncio.run_coroutine_threadsafe(session.close(), loop)
                await asyncio.wrap_future(closing)
            else:
                await session.close()


class HttpReply:
    """The `_direct.Reply` of aiohttp."""

    def __init__(
        self, response: aiohttp.ClientResponse, origin: Origin, limits: aiohttp.ClientTimeout
    ) -> None:
        self._response = response
        self._origin = origin
        self._limits = limits
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self, max_bytes: int) -> bytes:
        body = bytearray()
        while not self._response.content.at_eof():
            body += await self.read_piece()
            if len(body) > max_bytes:
                raise self._origin.error(
                    LLMErrorKind.BAD_RESPONSE, f"sent more than {max_bytes} bytes"
                )
        return bytes(body)

    async def read_piece(self) -> bytes:
        try:
            return await self._response.content.readany()
        except _FAILURES as error:
            raise _explained(error, self._origin, self._limits) from _shown(error)

    async def drain(self) -> None:
        if self._response.content.is_eof():
            return
        with suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(_DRAIN_S):
                await self._response.content.readany()

    def close(self) -> None:
        """Close the connection, unless the reply was read whole."""
        self._response.close()


def _explained(
    error: Exception, origin: Origin, limits: aiohttp.ClientTimeout, proxy: URL | None = None
) -> LLMError:
    """Says whatever went wrong between here and the server."""
    kind, fix = LLMErrorKind.NETWORK, None
    match error:
        case aiohttp.ClientHttpProxyError() if proxy:
            return _of_proxy(proxy, f"refuses (HTTP {error.status})", origin)
        case aiohttp.ClientProxyConnectionError() if proxy:
            return _of_proxy(proxy, f"cannot be reached ({_reason(error.os_error)})", origin)
        case aiohttp.ConnectionTimeoutError():
            what = f"gave no connection within {limits.connect:g} s"
        case aiohttp.SocketTimeoutError():
            kind, what = LLMErrorKind.TIMEOUT, f"was silent for {limits.sock_read:g} s"
        case TimeoutError():
            kind, what = LLMErrorKind.TIMEOUT, f"did not finish within {limits.total:g} s"
        case aiohttp.ClientConnectorCertificateError():
            what = "showed a certificate that cannot be verified"
            fix = "Install the system's CA certificates, or set SSL_CERT_FILE."
        case aiohttp.ClientConnectorError():
            what = f"cannot be reached ({_reason(error.os_error)})"
        case aiohttp.ClientResponseError():
            kind, what = LLMErrorKind.BAD_RESPONSE, "did not answer in HTTP"
            fix = "Is it the right address?"
        case _:
            what, fix = "broke the connection before its answer was whole", "Try again."
    return origin.error(kind, what, fix=fix)


def _of_proxy(proxy: URL, what: str, origin: Origin) -> LLMError:
    shown = f"{proxy.scheme}://{proxy.host}:{proxy.port}" if proxy.host else "(unreadable)"
    return origin.error(
        LLMErrorKind.NETWORK,
        f"was not reached: the environment's proxy {shown} {what}",
        fix="Check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, or name the server in NO_PROXY.",
    )


def _shown(error: Exception) -> Exception | None:
    """The error as a cause; not one that carries the request's headers, and so the key."""
    return None if isinstance(error, aiohttp.ClientResponseError) else error


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (error.strerror or str(error) or type(error).__name__).lower()


def _proxy_for(url: URL) -> URL | None:
    """The environment's proxy for this address, as other HTTP clients choose it."""
    host = url.host or ""
    if host in ("localhost", "::1") or host.startswith("127.") or proxy_bypass(host):
        return None
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy:
        return None
    try:
        return URL(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:
        return URL()  # Is no HTTP proxy: each call says so.
