"""Settings, read and checked once at start. This file is yours."""

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from .llmgine.settings import RuntimeSettings


class Settings(RuntimeSettings):
    """Add yours here: `max_notes: int = 100` is then LLMGINE_MAX_NOTES in the environment."""

    model_config = SettingsConfigDict(toml_file=Path(__file__).with_name("config.toml"))
