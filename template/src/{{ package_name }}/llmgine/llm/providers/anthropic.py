# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Anthropic, and every server that speaks its Messages API, straight over HTTP."""

from __future__ import annotations

import re

from pydantic import SecretStr

from ...contracts import LLMRequest, LLMResponse, accumulate
from ...errors import LLMErrorKind, MissingKeyError
from ._direct import DirectProvider, check_key
from ._messages import NAME, Messages

DEFAULT_BASE_URL = "https://api.anthropic.com"
_API_VERSION = "2023-06-01"


class AnthropicProvider(DirectProvider):
    """Calls `{base_url}/v1/messages`; the address may end in `/v1` or not.

    Anthropic's own host needs a key. Any other gets one only if it is given. A token is sent as a
    bearer's, and then the key is not: OpenRouter, vLLM and others know no other way.
    """

    name = NAME

    def __init__(
        self,
        api_key: SecretStr | str | None,
        base_url: str | None = None,
        *,
        auth_token: SecretStr | str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Check the key and the address; nothing is opened.

        Raises:
            ConfigurationError: the address, the key or the token cannot be one.
            MissingKeyError: Anthropic's own host was given no key.
        """
        base_url = (base_url or DEFAULT_BASE_URL).strip()
        shown = base_url.partition("?")[0]  # A query may hold a key.
        key = check_key(api_key, "ANTHROPIC_API_KEY")
        token = check_key(auth_token, "ANTHROPIC_AUTH_TOKEN")
        signs_in = {"Authorization": f"Bearer {token}"} if token else {"x-api-key": key}
        super().__init__(
            Messages(),
            base_url=re.sub(r"/v1/*(?=\?|$)", "", base_url),
            base_url_variable="ANTHROPIC_BASE_URL",
            headers={"anthropic-version": _API_VERSION, **(signs_in if token or key else {})},
            fixes={
                LLMErrorKind.AUTHENTICATION: (
                    f"Check {'ANTHROPIC_AUTH_TOKEN' if token else 'ANTHROPIC_API_KEY'}."
                ),
                LLMErrorKind.NETWORK: (
                    f"Is a server running at {shown}? ANTHROPIC_BASE_URL says where."
                ),
                LLMErrorKind.BAD_RESPONSE: (
                    "Is it Anthropic's Messages API? ANTHROPIC_BASE_URL says where."
                ),
            },
            secrets=tuple(filter(None, (token, key))),
            timeout_s=timeout_s,
        )
        if not (key or token) and self.server_address.endswith(".anthropic.com"):
            raise MissingKeyError(
                "Anthropic needs a key. Set ANTHROPIC_API_KEY in the environment or in .env, or "
                "set ANTHROPIC_BASE_URL to a server that needs none."
            )

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """Ask, and wait for the whole answer.

        It is asked for as a stream: a whole one holds the arguments of tool calls parsed, and so
        neither as the model wrote them nor, where they were cut, as far as they came.

        Raises:
            LLMError: the call failed; `kind` says how.
        """
        limits = {"timeout_s": request.timeout_s or self._timeout_s}
        chunks = [chunk async for chunk in self.stream(request.model_copy(update=limits))]
        return accumulate(chunks)
