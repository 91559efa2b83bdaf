# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""OpenAI, and every server that speaks one of its two APIs, straight over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from ...contracts import LLMRequest
from ...errors import LLMError, LLMErrorKind, MissingKeyError
from ._chat_completions import ChatCompletions
from ._direct import DirectProvider, WireFormat, check_key
from ._failures import Origin
from ._responses import Responses

if TYPE_CHECKING:
    from ._http import HttpReply

DEFAULT_BASE_URL = "https://api.openai.com/v1"
_AZURE = (".azure.com", ".azure.us", ".azure.cn", ".azure-api.net")
_OPENAI = (".openai.com", *_AZURE)


class OpenAIProvider(DirectProvider):
    """Calls `{base_url}/chat/completions`.

    OpenAI's own host needs a key. Any other (Ollama, vLLM, OpenRouter, a proxy) gets one only if
    it is given, and Azure, or a gateway in front of it, gets it in its own header. A query in the
    address, such as Azure's `?api-version=`, is kept. OpenAI and Azure are sent
    `max_completion_tokens`, which their newer models insist on; others are sent `max_tokens`, which
    some of them insist on. A model that refuses the one is asked again with the other, and from
    then on: a gateway's address does not tell what is behind it.
    """

    name = "openai"

    def __init__(
        self,
        api_key: SecretStr | str | None,
        base_url: str | None = None,
        *,
        timeout_s: float = 60.0,
    ) -> None:
        """Check the key and the address; nothing is opened.

        Raises:
            ConfigurationError: the address or the key cannot be one.
            MissingKeyError: OpenAI's own host was given no key.
        """
        base_url = (base_url or DEFAULT_BASE_URL).strip()
        shown = base_url.partition("?")[0]  # A query may hold a key.
        key = check_key(api_key, "OPENAI_API_KEY")
        super().__init__(
            self._speak(base_url),
            base_url=base_url,
            base_url_variable="OPENAI_BASE_URL",
            headers=_headers(key, base_url),
            fixes={
                LLMErrorKind.AUTHENTICATION: "Check OPENAI_API_KEY.",
                LLMErrorKind.NETWORK: (
                    f"Is a server running at {shown}? OPENAI_BASE_URL says where."
                ),
                LLMErrorKind.BAD_RESPONSE: (
                    "Is it an OpenAI-compatible API? OPENAI_BASE_URL usually ends in /v1."
                ),
            },
            secrets=(key,) if key else (),
            timeout_s=timeout_s,
        )
        if not key and self.server_address.endswith(".openai.com"):
            raise MissingKeyError(
                "OpenAI needs a key. Set OPENAI_API_KEY in the environment or in .env, or set "
                "OPENAI_BASE_URL to a server that needs none."
            )

    async def _send(self, request: LLMRequest, origin: Origin, *, stream: bool) -> HttpReply:
        wire = self._wire
        if request.max_output_tokens is None or not isinstance(wire, ChatCompletions):
            return await super()._send(request, origin, stream=stream)
        field = wire.limit_field(request.model)
        try:
            return await super()._send(request, origin, stream=stream)
        except LLMError as error:
            is_refused = error.kind is LLMErrorKind.BAD_REQUEST
            if not (is_refused and wire.rename_limit(request.model, field, str(error))):
                raise
        return await super()._send(request, origin, stream=stream)

    def _speak(self, base_url: str) -> WireFormat:
        """The API's format, as the server there wants it."""
        return ChatCompletions(
            newer=_is_at(base_url, *_OPENAI),
            mistral=_is_at(base_url, ".mistral.ai"),
            provider=self.name,
        )


class OpenAIResponsesProvider(OpenAIProvider):
    """Calls `{base_url}/responses`; all else is as with `OpenAIProvider`.

    The server stores nothing: what the model thought comes encrypted, and goes back with the next
    request. It is asked for where the model's name tells that it thinks; an Azure deployment of
    another name needs `include` in `extra_body`. `seed` is left out, and a request with `stop` is
    refused: this API has neither.
    """

    name = "openai-responses"

    def _speak(self, base_url: str) -> WireFormat:
        return Responses(encrypt=_is_at(base_url, *_OPENAI), provider=self.name)


def _headers(key: str, base_url: str) -> dict[str, str]:
    if not key:
        return {}
    # A gateway in front of Azure wants what Azure wants; its version in the address tells.
    is_azure = _is_at(base_url, *_AZURE) or "api-version=" in base_url.partition("?")[2]
    return {"api-key": key} if is_azure else {"Authorization": f"Bearer {key}"}


def _is_at(base_url: str, *domains: str) -> bool:
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:
        return False
    return host.endswith(domains)
