# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The runtime's settings. Your own go beside them, in the `Settings` class of `config.py`.

First found wins: arguments, environment, `.env`, `config.toml` beside `config.py`, the defaults.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError

from .errors import ConfigurationError

PREFIX = "LLMGINE_"


class RuntimeSettings(BaseSettings):
    """Every setting is the environment variable `LLMGINE_<NAME>`, but for vendors' own names."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
        frozen=True,
        hide_input_in_errors=True,
    )

    model: str = Field(default="offline", min_length=1)
    """`offline`, `openai/<name>`, `anthropic/<name>`, ..., or a name of `models`."""
    models: dict[str, list[str]] = Field(default_factory=dict)
    """Names of your own, each with the models that are tried in turn."""
    system_prompt: str = "You are a helpful assistant. Use the tools when they help."
    context_store: Literal["sqlite", "memory"] = "sqlite"
    context_budget_tokens: int = Field(default=16_000, gt=0)
    data_dir: Path = Path("data")
    log_dir: Path = Path("logs")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    capture_content: bool = False
    """Whether prompts, answers and tool arguments are written to logs and traces."""
    max_steps: int = Field(default=8, gt=0)
    """Model calls in one turn."""
    max_output_tokens: int | None = Field(default=None, gt=0)
    """Of one model call; if not given, the vendor decides, and a budget reckons with 4,096."""
    turn_timeout_s: float = Field(default=120.0, gt=0)
    request_timeout_s: float = Field(default=60.0, gt=0)
    tool_timeout_s: float = Field(default=30.0, gt=0)
    stop_grace_s: float = Field(default=25.0, ge=0)
    """How long running work may go on when the process is told to stop."""
    journal_url: SecretStr | None = None
    """`postgresql://...`; if not given, durable messages are kept in `app.db` in `data_dir`."""
    transport_url: SecretStr | None = None
    """`nats://...`; if not given, no other machine takes part."""
    work: bool = True
    """Whether this process does what waits in the journal, or leaves it to workers."""
    prices_file: Path | None = None
    """TOML or JSON with prices of your own, in the shape of `llm/prices.json`; they win."""
    budget_call_usd: Decimal | None = Field(default=None, ge=0)
    """What one model call may cost; without a number there is no limit."""
    budget_call_tokens: int | None = Field(default=None, ge=0)
    budget_session_usd: Decimal | None = Field(default=None, ge=0)
    """What one conversation may cost, over its whole life."""
    budget_session_tokens: int | None = Field(default=None, ge=0)
    budget_user_usd: Decimal | None = Field(default=None, ge=0)
    """What one user may cost in a day; days are those of UTC."""
    budget_user_tokens: int | None = Field(default=None, ge=0)
    budget_day_usd: Decimal | None = Field(default=None, ge=0)
    """What all calls of a day together may cost."""
    budget_day_tokens: int | None = Field(default=None, ge=0)
    openai_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("OPENAI_API_KEY")
    )
    openai_base_url: str | None = Field(
        default=None, validation_alias=AliasChoices("OPENAI_BASE_URL")
    )
    anthropic_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("ANTHROPIC_API_KEY")
    )
    anthropic_auth_token: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("ANTHROPIC_AUTH_TOKEN")
    )
    """Sent as a bearer's token, instead of the key: what many gateways want."""
    anthropic_base_url: str | None = Field(
        default=None, validation_alias=AliasChoices("ANTHROPIC_BASE_URL")
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls)
        return init_settings, env_settings, dotenv_settings, toml

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read and check everything, once; `None` stands for an override that was not given.

        Raises:
            ConfigurationError: a value is wrong or a name is unknown; all of them are listed.
        """
        cls._check_names()
        try:
            return cls(**{name: value for name, value in overrides.items() if value is not None})
        except ValidationError as invalid:
            raise ConfigurationError(_explain(invalid)) from None
        except (SettingsError, OSError, ValueError) as unreadable:
            raise ConfigurationError(f"Settings cannot be read: {unreadable}") from unreadable

    @classmethod
    def _check_names(cls) -> None:
        variables = {PREFIX + name.upper() for name in cls.model_fields}
        for name in {*os.environ, *cls.dotenv()}:
            if name.upper().startswith(PREFIX) and name.upper() not in variables:
                raise _unknown(name, close_to=name.upper(), known=variables)
        for name in cls._toml():
            if name not in cls.model_fields:
                path = cls.model_config.get("toml_file")
                raise _unknown(f"{name} in {path}", close_to=name, known=set(cls.model_fields))

    @classmethod
    def _toml(cls) -> Mapping[str, Any]:
        path = cls.model_config.get("toml_file")
        if not isinstance(path, str | Path) or not Path(path).is_file():
            return {}
        try:
            return tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as unreadable:
            raise ConfigurationError(f"{path} cannot be read: {unreadable}") from unreadable

    @classmethod
    def dotenv(cls) -> Mapping[str, str]:
        """The variables of the `.env` file, also those that belong to others."""
        path = cls.model_config.get("env_file")
        if not isinstance(path, str | Path) or not Path(path).is_file():
            return {}
        return {name: value for name, value in dotenv_values(path).items() if value}

    def secrets(self) -> list[str]:
        """Every secret value that is set, for the redactor to know."""
        values = [getattr(self, name) for name in type(self).model_fields]
        secrets = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
        passwords = [password for value in secrets if (password := _password(value))]
        return [*secrets, *passwords]


def _password(secret: str) -> str | None:
    """The one in an address, which errors may quote without the rest of it."""
    try:
        return urlsplit(secret).password
    except ValueError:
        return None


def _unknown(name: str, *, close_to: str, known: set[str]) -> ConfigurationError:
    close = difflib.get_close_matches(close_to, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return ConfigurationError(f"{name!r} is not a setting.{hint}")


def _explain(invalid: ValidationError) -> str:
    lines = [
        f"{_place(error['loc'])}: {error['msg']}"
        for error in invalid.errors(include_input=False, include_url=False)
    ]
    return (
        "Settings are wrong. " + "; ".join(lines) + ". Mend the environment, .env or config.toml."
    )


def _place(location: tuple[int | str, ...]) -> str:
    """The variable, and where in its value: `LLMGINE_MODELS fast 0`."""
    field, *inside = location or ("",)
    return " ".join([_variable(str(field)), *map(str, inside)])


def _variable(field: str) -> str:
    return field if field.isupper() else PREFIX + field.upper()
