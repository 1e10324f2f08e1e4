"""The service's settings: environment variables or lines in ``.env``, read once at startup and frozen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.domain.access import AllowedHosts, ApiKeys, Rate, TrustedProxies, WebhookSecret
from app.domain.origins import AllowedOrigins
from app.domain.redaction import without_queries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MIB: Final = 1024**2
GIB: Final = 1024**3
_MAX_BATCH_SIZE: Final = 64
#: Settings whose values appear nowhere, not even in error messages.
_WEEK_SECONDS: Final = 604_800
_SECRETS: Final = ("API_KEYS", "METRICS_KEY", "WEBHOOK_SECRET", "DATABASE_URL", "CLUSTER_SECRET")
#: The shortest secret that encrypts jobs: 16 random bytes in hexadecimal digits.
_MIN_CLUSTER_SECRET: Final = 32
#: The parsers of settings whose values are domain types.
_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "api_keys": ApiKeys.parse,
    "metrics_key": ApiKeys.parse,
    "cors_allowed_origins": AllowedOrigins.parse,
    "rate_limit": Rate.parse,
    "forwarded_allow_ips": TrustedProxies.parse,
    "url_allowed_hosts": AllowedHosts.parse,
    "webhook_secret": WebhookSecret.parse,
}
#: The first setting of each section of the documentation. The other settings follow in the order of the fields.
_SECTION_STARTS: Final[Mapping[str, str]] = {
    "host": "Server",
    "api_keys": "Access",
    "whisper_model": "Model",
    "max_concurrent_requests": "Capacity",
    "upload_timeout_seconds": "Transfers",
    "data_dir": "Storage and shutdown",
    "role": "Cluster",
}


class Settings(BaseSettings):
    """All settings of the service. Each field is the environment variable of the same name in upper case.

    The documentation is generated from the descriptions, in the order of the fields.
    """

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, case_sensitive=False, allow_inf_nan=False
    )

    host: str = Field("127.0.0.1", description="Address to listen on. Use `0.0.0.0` to listen on all interfaces.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on. 0 selects a free port.")
    web_page: bool = Field(
        default=True,
        description="Serve the web page at `/`, which uses the same API as every other client. `false` leaves only the "
        "API.",
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="Format of log lines: `console` for people, `json` for log collectors."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe level that is logged: `DEBUG`, `INFO`, `WARNING` or `ERROR`."
    )

    api_keys: Annotated[ApiKeys, NoDecode] = Field(
        ApiKeys(),
        repr=False,
        description="Comma-separated API keys, each a `key`, a `name:key`, or a `name:key:seconds` with a limit on the "
        "audio that is transcribed in a day (UTC); names appear in logs. Every request must send one. Empty disables "
        "authentication. Create a key with `openssl rand -hex 24`.",
    )
    metrics_key: Annotated[ApiKeys, NoDecode] = Field(
        ApiKeys(),
        repr=False,
        description="Comma-separated keys for `/metrics` and for the usage of all API keys, in the same form. Empty "
        "leaves `/metrics` open; `/health` is always open.",
    )
    cors_allowed_origins: Annotated[AllowedOrigins, NoDecode] = Field(
        AllowedOrigins(),
        description="Comma-separated origins of other web pages that can use the API, such as "
        "`https://app.example.com` or `http://localhost:3000`. `*` allows all and requires API_KEYS. "
        "Empty allows none.",
    )
    rate_limit: Annotated[Rate | None, NoDecode] = Field(
        None,
        description="Requests allowed per key, or per client address without keys: a number per `second`, `minute`, "
        "`hour` or `day`, such as `600/minute`. Further requests get status 429. Empty disables the limit.",
    )
    max_connections: int = Field(
        1000,
        ge=0,
        description="Open connections. At the limit, the connection that has waited longest for its next request is "
        "closed to make room. 0 disables the limit.",
    )
    max_connections_per_address: int = Field(
        100, ge=0, description="Open connections per client address, trusted proxies excepted. 0 disables the limit."
    )
    forwarded_allow_ips: Annotated[TrustedProxies, NoDecode] = Field(
        TrustedProxies.parse("127.0.0.1,::1"),
        description="Comma-separated addresses and networks of reverse proxies whose headers `X-Forwarded-For`, "
        "`X-Forwarded-Proto` and `X-Forwarded-Host` are trusted. `*` trusts all.",
    )
    header_timeout_seconds: float = Field(
        10, ge=0, description="Time a client has to send the head of a request. 0 disables the limit."
    )
    min_body_bytes_per_second: int = Field(
        1024,
        ge=0,
        description="Lowest accepted transfer rate of a request body, averaged over 20 s. 0 disables the limit.",
    )
    send_timeout_seconds: float = Field(
        60,
        ge=0,
        description="How long a client can read its response more slowly than MIN_BODY_BYTES_PER_SECOND. 0 disables "
        "the limit.",
    )

    whisper_model: str = Field(
        "auto",
        min_length=1,
        description="Model to serve: a faster-whisper size, a Hugging Face model id, a directory, or `demo` for the "
        "bundled model. `auto` selects `large-v3-turbo` on CUDA and `small` on a CPU.",
    )
    whisper_models: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Comma-separated additional models that requests can name. They are loaded on first use."
    )
    whisper_max_loaded_models: int = Field(
        1,
        ge=1,
        description="Models kept in memory. To load another one, the idle model that was least recently used is "
        "unloaded.",
    )
    whisper_idle_unload_seconds: float = Field(
        0,
        ge=0,
        description="Time without a request after which a model is unloaded, which frees its memory. The next request "
        "loads it again and waits for that; the server stays ready. 0 never unloads.",
    )
    whisper_model_aliases: Annotated[dict[str, str], NoDecode] = Field(
        {},
        description="Comma-separated alternative names of models: `alias=model`, or `alias` alone for WHISPER_MODEL. "
        "`whisper-1`, `gpt-transcribe`, `gpt-4o-transcribe`, `gpt-4o-mini-transcribe` and `gpt-4o-transcribe-diarize` "
        "are always aliases.",
    )
    whisper_accept_any_model: bool = Field(
        default=False,
        description="Serve WHISPER_MODEL to requests that name any other model, with a warning in the response. "
        "`false` rejects them with status 404.",
    )
    whisper_device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="Device the model runs on: `auto`, `cuda` or `cpu`. `auto` uses CUDA if it is available."
    )
    whisper_compute_type: str = Field(
        "auto",
        min_length=1,
        description="CTranslate2 compute type. `auto` selects `float16` on CUDA and `int8` on a CPU.",
    )
    whisper_device_index: Annotated[tuple[int, ...], NoDecode] = Field(
        (0,),
        description="Comma-separated GPU numbers, starting at 0. On a CPU, one replica is loaded for each number.",
    )
    whisper_cpu_threads: int = Field(0, ge=0, description="CPU threads of the model. 0 uses all cores.")
    whisper_beam_size: int = Field(
        5, ge=1, le=10, description="Beam size for requests that don't send `beam_size`; 1 to 10."
    )
    whisper_batch_size: str = Field(
        "auto",
        description="Windows of 30 s that are decoded together; 1 to 64. `auto` is 6 on a CPU. On CUDA it is "
        "measured when the model is loaded: 16, less if memory is short, or 32 or 64 if that is faster.",
    )

    diarization_model: str = Field(
        "auto",
        min_length=1,
        description="Models that tell speakers apart by their voices: `auto` for the bundled ones, a directory with "
        "others, or `none`. They are loaded on first use, and run on the CPU.",
    )
    diarization_threads: int = Field(
        0, ge=0, description="CPU threads that tell speakers apart. 0 uses half of the cores."
    )

    max_concurrent_requests: int = Field(
        3,
        ge=1,
        le=256,
        description="GPU slots: requests that use the model at the same time; 1 to 256. Start with 1 to 2 on a CPU, 4 "
        "to 5 on a 24 GB card, 12 to 15 on an H100, and 3 to 5 for each of several GPUs.",
    )
    max_queued_jobs: int = Field(
        1000, ge=1, description="Requests that can wait in the queue. Further ones get status 429."
    )
    max_upload_bytes: int = Field(
        2 * GIB, ge=1, description="Largest audio file, sent or downloaded. The default is 2 GiB."
    )
    max_audio_seconds: float = Field(43200, gt=0, description="Longest audio. The default is 12 hours.")

    realtime_max_sessions: int = Field(
        8,
        ge=0,
        description="Sessions of live transcription at the same time. Further ones get status 429. 0 allows none.",
    )
    realtime_session_seconds: float = Field(
        3600, gt=0, description="Longest session of live transcription. The default is one hour."
    )
    realtime_idle_seconds: float = Field(
        300, ge=0, description="How long a client of a session can send nothing. 0 disables the limit."
    )

    upload_timeout_seconds: float = Field(
        600, gt=0, description="Time limit for one attempt to upload a result, and for each read and write in it."
    )
    upload_connect_timeout_seconds: float = Field(
        30, gt=0, description="Time limit to connect, for uploads and downloads."
    )
    upload_max_attempts: int = Field(
        3, ge=1, le=10, description="Attempts in one round of uploads or downloads; 1 to 10."
    )
    download_timeout_seconds: float = Field(3600, gt=0, description="Time limit for one attempt to download audio.")
    delivery_max_age_seconds: float = Field(
        86400,
        ge=0,
        description="How long delivery of a result or webhook event is retried, in rounds. The default is one day. 0 "
        "makes one round only.",
    )
    webhook_secret: Annotated[WebhookSecret | None, NoDecode] = Field(
        None,
        repr=False,
        description="Secret that signs webhook events: `whsec_` followed by the base64 of random bytes. Empty disables "
        "webhooks. Create one with `printf 'whsec_%s' \"$(head -c 32 /dev/urandom | base64 -w0)\"`.",
    )
    url_allowed_hosts: Annotated[AllowedHosts, NoDecode] = Field(
        AllowedHosts(),
        description="Comma-separated `host` or `host:port` entries that clients' URLs can name although they have "
        "private addresses or use plain `http`, such as your own MinIO.",
    )

    data_dir: Path = Field(
        Path("data"),
        description="Directory for the job journal, audio and results. Use a directory of its own on a local disk.",
    )
    spool_max_bytes: int = Field(
        0,
        ge=0,
        description="Total size of the audio stored in DATA_DIR, kept recordings included; at least "
        "MAX_UPLOAD_BYTES. Further audio gets status 507. 0 disables the limit.",
    )
    spool_min_free_bytes: int = Field(
        256 * MIB,
        ge=0,
        description="Free space to keep on the disk of DATA_DIR. With less, new audio gets status 507. The default "
        "is 256 MiB.",
    )
    job_retention_seconds: float = Field(
        3600, ge=0, description="How long a finished job is kept. The default is one hour."
    )
    max_retention_seconds: float | None = Field(
        None,
        ge=0,
        description="Longest time that a job can ask to be kept for with `retention_seconds`, at least "
        "JOB_RETENTION_SECONDS. The default is a week, or JOB_RETENTION_SECONDS if that is set.",
    )
    undelivered_retention_seconds: float = Field(
        604800,
        ge=0,
        description="How long a job is kept at least if its result could not be delivered. The default is one week.",
    )
    shutdown_grace_seconds: float = Field(
        30,
        ge=0,
        description="Time after SIGTERM for running transcriptions to finish. Unfinished jobs resume after the next "
        "start.",
    )

    role: Literal["all", "api", "worker"] = Field(
        "all",
        description="What this process does in a cluster: `api` serves requests and delivers results, `worker` "
        "transcribes, `all` does both. `api` and `worker` need DATABASE_URL.",
    )
    database_url: str = Field(
        "",
        repr=False,
        validate_default=True,
        description="PostgreSQL database that the nodes of a cluster share: `postgresql://user:password@host/name`. "
        "Empty keeps jobs in DATA_DIR, for one process. Run `python -m app migrate` before the first start.",
    )
    spool_url: str = Field(
        "",
        validate_default=True,
        description="Object store for the audio and results of a cluster: `s3://bucket/prefix`, with the standard "
        "`AWS_*` variables, or `file:///folder` for a folder that all nodes share. DATA_DIR has copies then, for as "
        "long as they are worked on.",
    )
    cluster_secret: str = Field(
        "",
        repr=False,
        validate_default=True,
        description="Secret with which the nodes of a cluster encrypt jobs in the database, the same for all. To "
        "replace it, put the new one before the old one, with a comma. Create one with `openssl rand -hex 32`.",
    )

    cluster_stale_seconds: float = Field(
        30,
        ge=1,
        description="Time without a sign of life after which the tasks of a node of a cluster go to other nodes.",
    )

    @property
    def cluster_secrets(self) -> tuple[str, ...]:
        """Return the parts of ``cluster_secret``, the present one first."""
        return tuple(part.strip() for part in self.cluster_secret.split(",") if part.strip())

    @property
    def batch_size(self) -> int | None:
        """Return ``whisper_batch_size`` as a number, or None for ``auto``."""
        return None if self.whisper_batch_size == "auto" else int(self.whisper_batch_size)

    @property
    def has_diarization(self) -> bool:
        """Return True if speakers can be told apart by their voices."""
        return self.diarization_model != "none"

    @property
    def longest_retention_seconds(self) -> float:
        """Return the longest time that a job can ask to be kept for."""
        if self.max_retention_seconds is not None:
            return self.max_retention_seconds
        return self.job_retention_seconds if "job_retention_seconds" in self.model_fields_set else _WEEK_SECONDS

    @classmethod
    def load(cls) -> Self:
        """Read the settings from the environment and from ``.env``.

        Raises:
            InvalidSettings: with one message for each setting that is not valid.
        """
        try:
            return cls()
        except ValidationError as exc:
            raise InvalidSettings([_message(error) for error in exc.errors()]) from None

    @classmethod
    def sections(cls) -> dict[str, list[str]]:
        """Return the names of all settings in upper case, by section of the documentation."""
        sections: dict[str, list[str]] = {}
        for name in cls.model_fields:
            if name in _SECTION_STARTS:
                section = sections.setdefault(_SECTION_STARTS[name], [])
            section.append(name.upper())
        return sections

    @field_validator("whisper_device_index", "whisper_models", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        if isinstance(value, str | int):
            return tuple(part.strip() for part in str(value).split(",") if part.strip())
        return value

    @field_validator("whisper_device_index")
    @classmethod
    def _check_device_index(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or any(index < 0 for index in value):
            raise ValueError("must be one or more numbers starting at 0, such as 0 or 0,1")
        return value

    @field_validator("whisper_models")
    @classmethod
    def _check_models(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "auto" in value:
            raise ValueError("must name each model, such as small; only WHISPER_MODEL can be auto")
        return value

    @field_validator("whisper_model_aliases", mode="before")
    @classmethod
    def _parse_aliases(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        aliases = {alias.strip(): model.strip() for alias, _, model in pairs}
        if len(aliases) < len(pairs):
            raise ValueError("must list each alias once")
        return aliases

    @field_validator("whisper_model_aliases")
    @classmethod
    def _check_aliases(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if not {"whisper_model", "whisper_models"} <= info.data.keys():
            return value  # the models are not valid, which has its own message
        models = (info.data["whisper_model"], *info.data["whisper_models"])
        for alias, model in value.items():
            if not alias:
                raise ValueError("must be alias=model or alias entries separated by commas")
            if alias in models:
                raise ValueError(f"must not use the name of a model as an alias ({alias} is a model)")
            if model and model not in models:
                raise ValueError(f"must map {alias} to WHISPER_MODEL or to one of WHISPER_MODELS")
        return value

    @field_validator("whisper_batch_size", mode="before")
    @classmethod
    def _check_batch_size(cls, value: Any) -> Any:
        text = str(value).strip().lower()
        if text != "auto" and not (text.isdecimal() and 1 <= int(text) <= _MAX_BATCH_SIZE):
            raise ValueError(f"must be auto or a whole number from 1 to {_MAX_BATCH_SIZE}")
        return text

    @field_validator("diarization_model")
    @classmethod
    def _check_diarization_model(cls, value: str) -> str:
        if value not in ("auto", "none") and not Path(value).is_dir():
            raise ValueError("must be auto, none, or a directory with models")
        return value

    @field_validator("spool_max_bytes")
    @classmethod
    def _check_spool_max_bytes(cls, value: int, info: ValidationInfo) -> int:
        if 0 < value < info.data.get("max_upload_bytes", 0):
            raise ValueError("must be at least MAX_UPLOAD_BYTES, or 0 for no limit")
        return value

    @field_validator("max_retention_seconds")
    @classmethod
    def _check_max_retention(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and value < info.data.get("job_retention_seconds", 0):
            raise ValueError("must be at least JOB_RETENTION_SECONDS, or empty for the same")
        return value

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.data.get("role", "all") != "all":
            raise ValueError(f"must be set with ROLE={info.data['role']}, because the nodes share a database")
        if value and info.data.get("whisper_model") == "auto":
            raise ValueError("needs a WHISPER_MODEL other than auto, so that all nodes mean the same model")
        return value

    @field_validator("spool_url")
    @classmethod
    def _check_spool_url(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.data.get("database_url"):
            raise ValueError("must be s3://bucket/prefix or file:///folder with DATABASE_URL")
        return value

    @field_validator("cluster_secret")
    @classmethod
    def _check_cluster_secret(cls, value: str, info: ValidationInfo) -> str:
        parts = [part.strip() for part in value.split(",")]
        if info.data.get("database_url") and any(len(part) < _MIN_CLUSTER_SECRET for part in parts):
            raise ValueError(
                f"must have at least {_MIN_CLUSTER_SECRET} random characters with DATABASE_URL; create one with "
                "openssl rand -hex 32"
            )
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _to_upper_case(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("metrics_key")
    @classmethod
    def _check_metrics_key(cls, value: ApiKeys) -> ApiKeys:
        if any(key.quota_seconds is not None for key in value):
            raise ValueError("must be keys or name:key entries: seconds of audio are for API_KEYS")
        return value

    @field_validator("cors_allowed_origins")
    @classmethod
    def _check_origins(cls, value: AllowedOrigins, info: ValidationInfo) -> AllowedOrigins:
        if value.has_any and not info.data.get("api_keys", True):
            raise ValueError(
                "must name each origin while API_KEYS is empty, or else any web page could use this server"
            )
        return value

    @field_validator(*_PARSERS, mode="before")
    @classmethod
    def _parse(cls, value: Any, info: ValidationInfo) -> Any:
        return _PARSERS[info.field_name or ""](value) if isinstance(value, str) else value


class InvalidSettings(Exception):
    """One or more settings are not valid. ``messages`` has one sentence for each."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


def _message(error: Any) -> str:
    """Return one sentence for an error of pydantic, which quotes the value unless it is a secret."""
    name = str(error["loc"][0]).upper()
    value = "" if name in _SECRETS else f', got "{error["input"]}"'
    return without_queries(f"{name} {_requirement(error)}{value}: correct it in the environment or in .env.")


def _requirement(error: Any) -> str:
    match error["type"]:
        case "value_error":
            return str(error["ctx"]["error"])
        case "int_parsing":
            return "must be a whole number"
        case "float_parsing":
            return "must be a number"
        case "bool_parsing":
            return "must be true or false"
        case _:
            return str(error["msg"]).replace("Input should", "must").replace("String should", "must")
