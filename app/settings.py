"""The settings: environment variables or ``.env``, read once at the edge and frozen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.domain.access import AllowedHosts, ApiKeys, Rate, TrustedProxies, WebhookSecret
from app.domain.redaction import without_queries

if TYPE_CHECKING:
    from collections.abc import Callable

GIB: Final = 1024**3
_MAX_BATCH_SIZE: Final = 64
MIB: Final = 1024**2
#: Settings whose values are shown nowhere.
_SECRETS: Final = ("API_KEYS", "METRICS_KEY", "WEBHOOK_SECRET")
#: Of settings that are more than text, what reads them.
_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "api_keys": ApiKeys.parse,
    "metrics_key": ApiKeys.parse,
    "rate_limit": Rate.parse,
    "forwarded_allow_ips": TrustedProxies.parse,
    "url_allowed_hosts": AllowedHosts.parse,
    "webhook_secret": WebhookSecret.parse,
}


class Settings(BaseSettings):
    """Each field is the variable of the same name in capitals. See the table in README.md."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, case_sensitive=False, allow_inf_nan=False
    )

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")

    whisper_model: str = Field(
        "auto",
        min_length=1,
        description="A faster-whisper size, a hub id, a directory, or `demo` for the bundled model; "
        "`auto` is `large-v3-turbo` on CUDA and `small` on a CPU.",
    )
    whisper_models: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Further models that a request may name, separated by commas; loaded on first use."
    )
    whisper_max_loaded_models: int = Field(
        1, ge=1, description="Models in memory at once; beyond it the least recently used one that is idle gives way."
    )
    whisper_model_aliases: Annotated[dict[str, str], NoDecode] = Field(
        {},
        description="Further names for models, separated by commas: `alias=model`, or `alias` alone for WHISPER_MODEL; "
        "`whisper-1` is one already.",
    )
    whisper_device: Literal["auto", "cuda", "cpu"] = Field("auto", description="Where the model runs.")
    whisper_compute_type: str = Field(
        "auto",
        min_length=1,
        description="CTranslate2's number format; `auto` is float16 on CUDA, int8 on a CPU.",
    )
    whisper_device_index: Annotated[tuple[int, ...], NoDecode] = Field(
        (0,), description="Which GPUs, counted from 0 and separated by commas; on a CPU one replica for each number."
    )
    whisper_cpu_threads: int = Field(0, ge=0, description="Threads of the model on a CPU; 0 uses all cores.")
    whisper_beam_size: int = Field(5, ge=1, le=10, description="Beams where a request names no `beam_size`.")
    whisper_batch_size: str = Field(
        "auto",
        description="Windows of 30 s that go onto the model together, 1 to 64; `auto` is 8 on a CPU and up to 16 on "
        "CUDA, as memory allows.",
    )

    max_concurrent_requests: int = Field(3, ge=1, le=256, description="Requests on the model at once.")
    max_queued_jobs: int = Field(1000, ge=1, description="Requests that may wait; beyond it 429.")

    upload_timeout_seconds: float = Field(
        600, gt=0, description="Read, write and the whole of one attempt to upload a result."
    )
    upload_connect_timeout_seconds: float = Field(30, gt=0, description="To connect, uploads and downloads.")
    upload_max_attempts: int = Field(3, ge=1, le=10, description="Attempts to upload or download.")
    download_timeout_seconds: float = Field(3600, gt=0, description="The whole of one attempt to download.")
    delivery_max_age_seconds: float = Field(
        86400, ge=0, description="How long an undelivered result or event is tried again; 0 is one round of attempts."
    )
    webhook_secret: Annotated[WebhookSecret | None, NoDecode] = Field(
        None,
        repr=False,
        description="What events are signed with: `whsec_` and the base64 of random bytes; empty is no webhooks.",
    )
    shutdown_grace_seconds: float = Field(
        30,
        ge=0,
        description="From SIGTERM to the end, in which running jobs finish; others go on after the next start.",
    )
    job_retention_seconds: float = Field(3600, ge=0, description="How long a finished job is kept after its end.")
    undelivered_retention_seconds: float = Field(
        604800, ge=0, description="How long at least a result is kept that could not be delivered."
    )

    max_upload_bytes: int = Field(2 * GIB, ge=1, description="Largest file, sent or downloaded.")
    max_audio_seconds: float = Field(43200, gt=0, description="Longest audio.")
    data_dir: Path = Field(Path("data"), description="The journal, and audio and results as long as they are kept.")
    spool_max_bytes: int = Field(
        0, ge=0, description="Audio in DATA_DIR at once, waiting or in work; beyond it 507. 0 is no limit."
    )
    spool_min_free_bytes: int = Field(
        256 * MIB, ge=0, description="What must stay free on the disk of DATA_DIR; new audio below it is 507."
    )

    api_keys: Annotated[ApiKeys, NoDecode] = Field(
        ApiKeys(),
        repr=False,
        description="Keys, or name:key, separated by commas, one of which each request must bring; empty is open.",
    )
    metrics_key: Annotated[ApiKeys, NoDecode] = Field(
        ApiKeys(), repr=False, description="The key for /metrics, or several; empty is open, as /health is."
    )
    rate_limit: Annotated[Rate | None, NoDecode] = Field(
        None,
        description="Requests of each key, or of each address where there are no keys, such as 600/minute; beyond it "
        "429. Empty is no limit.",
    )
    max_connections: int = Field(1000, ge=0, description="Connections at once; 0 is no limit.")
    max_connections_per_address: int = Field(
        100, ge=0, description="Connections from one address at once, proxies excepted; 0 is no limit."
    )
    forwarded_allow_ips: Annotated[TrustedProxies, NoDecode] = Field(
        TrustedProxies.parse("127.0.0.1,::1"),
        description="Addresses and networks of proxies whose X-Forwarded-For is believed; * is all.",
    )
    header_timeout_seconds: float = Field(10, ge=0, description="For the head of a request; 0 is no limit.")
    min_body_bytes_per_second: int = Field(
        1024, ge=0, description="What must come of a request's body, on the average of 20 s; 0 is no limit."
    )
    send_timeout_seconds: float = Field(
        60,
        ge=0,
        description="How long a client may take less than MIN_BODY_BYTES_PER_SECOND of its answer; 0 is no limit.",
    )
    url_allowed_hosts: Annotated[AllowedHosts, NoDecode] = Field(
        AllowedHosts(),
        description="`host` or `host:port`, separated by commas, that may be private and use plain http.",
    )

    log_format: Literal["console", "json"] = Field("console", description="For people or for machines.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe line.")

    @field_validator("whisper_device_index", "whisper_models", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        if isinstance(value, str | int):
            return tuple(part.strip() for part in str(value).split(",") if part.strip())
        return value

    @field_validator("whisper_device_index")
    @classmethod
    def _at_least_one(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or any(index < 0 for index in value):
            raise ValueError("must be one or more numbers from 0, such as 0 or 0,1")
        return value

    @field_validator("whisper_models")
    @classmethod
    def _by_their_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "auto" in value:
            raise ValueError("must name each further model, such as small; auto is for WHISPER_MODEL alone")
        return value

    @field_validator("whisper_model_aliases", mode="before")
    @classmethod
    def _aliases(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        aliases = {alias.strip(): model.strip() for alias, _, model in pairs}
        if len(aliases) < len(pairs):
            raise ValueError("must give each alias once")
        return aliases

    @field_validator("whisper_model_aliases")
    @classmethod
    def _of_served_models(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if not {"whisper_model", "whisper_models"} <= info.data.keys():
            return value  # which models are served is not known: that is told already
        served = (info.data["whisper_model"], *info.data["whisper_models"])
        for alias, model in value.items():
            if not alias:
                raise ValueError("must be alias=model or an alias alone, separated by commas")
            if alias in served:
                raise ValueError(f"the alias {alias} is the name of a model itself")
            if model and model not in served:
                raise ValueError(f"must name WHISPER_MODEL or one of WHISPER_MODELS behind the = of {alias}")
        return value

    @field_validator("whisper_batch_size", mode="before")
    @classmethod
    def _auto_or_size(cls, value: Any) -> Any:
        text = str(value).strip().lower()
        if text != "auto" and not (text.isdecimal() and 1 <= int(text) <= _MAX_BATCH_SIZE):
            raise ValueError(f"must be auto or a number from 1 to {_MAX_BATCH_SIZE}")
        return text

    @property
    def batch_size(self) -> int | None:
        """``whisper_batch_size`` as a number, or None where it is found out."""
        return None if self.whisper_batch_size == "auto" else int(self.whisper_batch_size)

    @field_validator(*_PARSERS, mode="before")
    @classmethod
    def _parsed(cls, value: Any, info: ValidationInfo) -> Any:
        return _PARSERS[info.field_name or ""](value) if isinstance(value, str) else value

    @field_validator("spool_max_bytes")
    @classmethod
    def _takes_the_largest_file(cls, value: int, info: ValidationInfo) -> int:
        if 0 < value < info.data.get("max_upload_bytes", 0):
            raise ValueError("must be at least MAX_UPLOAD_BYTES, or 0 for no limit")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @classmethod
    def load(cls) -> Self:
        """The settings of this environment.

        Raises:
            WrongSettings: with one readable sentence for each.
        """
        try:
            return cls()
        except ValidationError as exc:
            raise WrongSettings([_sentence(error) for error in exc.errors()]) from None


class WrongSettings(Exception):
    """``sentences`` holds one for each wrong value."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = sentences


def _sentence(error: Any) -> str:
    name = str(error["loc"][0]).upper()
    given = "" if name in _SECRETS else f"={error['input']}"
    reason = error["msg"].removeprefix("Value error, ").removeprefix(f"{name}: ").removesuffix(".")
    return without_queries(
        f"{name}{given} is wrong: {reason[0].lower()}{reason[1:]}. Correct it in the environment or in .env."
    )
