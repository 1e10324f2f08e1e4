"""Settings: defaults, sources, and one message for each invalid value."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import ValidationError

from app.domain.access import AllowedHosts, ApiKeys, Rate, TrustedProxies
from app.domain.origins import AllowedOrigins
from app.settings import InvalidSettings, Settings, _message

#: Every setting with its default.
DEFAULTS: Final[dict[str, Any]] = {
    "HOST": "127.0.0.1",
    "PORT": 8000,
    "WEB_PAGE": True,
    "WHISPER_MODEL": "auto",
    "WHISPER_MODELS": (),
    "WHISPER_MAX_LOADED_MODELS": 1,
    "WHISPER_IDLE_UNLOAD_SECONDS": 0,
    "WHISPER_MODEL_ALIASES": {},
    "WHISPER_ACCEPT_ANY_MODEL": False,
    "WHISPER_DEVICE": "auto",
    "WHISPER_COMPUTE_TYPE": "auto",
    "WHISPER_DEVICE_INDEX": (0,),
    "WHISPER_CPU_THREADS": 0,
    "WHISPER_BEAM_SIZE": 5,
    "WHISPER_BATCH_SIZE": "auto",
    "DIARIZATION_MODEL": "auto",
    "DIARIZATION_THREADS": 0,
    "MAX_CONCURRENT_REQUESTS": 3,
    "MAX_QUEUED_JOBS": 1000,
    "REALTIME_MAX_SESSIONS": 8,
    "REALTIME_SESSION_SECONDS": 3600,
    "REALTIME_IDLE_SECONDS": 300,
    "UPLOAD_TIMEOUT_SECONDS": 600,
    "UPLOAD_CONNECT_TIMEOUT_SECONDS": 30,
    "UPLOAD_MAX_ATTEMPTS": 3,
    "DOWNLOAD_TIMEOUT_SECONDS": 3600,
    "DELIVERY_MAX_AGE_SECONDS": 86400,
    "WEBHOOK_SECRET": None,
    "SHUTDOWN_GRACE_SECONDS": 30,
    "JOB_RETENTION_SECONDS": 3600,
    "MAX_RETENTION_SECONDS": None,
    "UNDELIVERED_RETENTION_SECONDS": 604800,
    "MAX_UPLOAD_BYTES": 2 * 1024**3,
    "MAX_AUDIO_SECONDS": 43200,
    "DATA_DIR": Path("data"),
    "SPOOL_MAX_BYTES": 0,
    "SPOOL_MIN_FREE_BYTES": 256 * 1024**2,
    "API_KEYS": ApiKeys(),
    "METRICS_KEY": ApiKeys(),
    "CORS_ALLOWED_ORIGINS": AllowedOrigins(),
    "RATE_LIMIT": None,
    "MAX_CONNECTIONS": 1000,
    "MAX_CONNECTIONS_PER_ADDRESS": 100,
    "FORWARDED_ALLOW_IPS": TrustedProxies.parse("127.0.0.1,::1"),
    "HEADER_TIMEOUT_SECONDS": 10,
    "MIN_BODY_BYTES_PER_SECOND": 1024,
    "SEND_TIMEOUT_SECONDS": 60,
    "URL_ALLOWED_HOSTS": AllowedHosts(),
    "LOG_FORMAT": "console",
    "LOG_LEVEL": "INFO",
    "ROLE": "all",
    "DATABASE_URL": "",
    "SPOOL_URL": "",
    "CLUSTER_SECRET": "",
    "CLUSTER_STALE_SECONDS": 30,
}


#: The end of every message.
REMEDY: Final = ": correct it in the environment or in .env."


def messages_for(patch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    """Load settings from invalid variables and return the messages of the error."""
    for name, value in variables.items():
        patch.setenv(name, value)
    with pytest.raises(InvalidSettings) as caught:
        Settings.load()
    assert str(caught.value) == "\n".join(caught.value.messages)
    return caught.value.messages


def test_defaults_are_those_of_the_contract() -> None:
    settings = Settings.load()
    assert {name.upper(): getattr(settings, name) for name in Settings.model_fields} == DEFAULTS


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_sections_list_every_setting_once_in_order() -> None:
    sections = Settings.sections()
    assert list(sections) == ["Server", "Access", "Model", "Capacity", "Transfers", "Storage and shutdown", "Cluster"]
    assert [name for names in sections.values() for name in names] == [name.upper() for name in Settings.model_fields]


def test_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_CONCURRENT_REQUESTS", "7")
    monkeypatch.setenv("data_dir", "/var/spool/speech")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    monkeypatch.setenv("UPLOAD_TIMEOUT_SECONDS", "0.5")
    settings = Settings.load()
    assert settings.max_concurrent_requests == 7
    assert settings.data_dir == Path("/var/spool/speech")
    assert settings.log_level == "DEBUG"
    assert settings.upload_timeout_seconds == 0.5


def test_environment_takes_precedence_over_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(
        "# Ours\nPORT=9000\nWHISPER_MODEL='tiny' # small\nMAX_QUEUED_JOBS=5\nAPI_KEYS=a,b\nUNKNOWN_SETTING=1\n"
    )
    monkeypatch.setenv("MAX_QUEUED_JOBS", "6")
    settings = Settings.load()
    assert settings.port == 9000
    assert settings.whisper_model == "tiny"
    assert settings.max_queued_jobs == 6
    assert settings.api_keys == ApiKeys.parse("a,b")


@pytest.mark.parametrize("name", DEFAULTS)
def test_empty_variable_means_the_default(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert getattr(Settings.load(), name.lower()) == DEFAULTS[name]


def test_settings_are_immutable() -> None:
    settings = Settings.load()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]  # the assignment under test


@pytest.mark.parametrize(
    ("name", "value", "requirement"),
    [
        ("MAX_CONCURRENT_REQUESTS", "abc", "must be a whole number"),
        ("UPLOAD_TIMEOUT_SECONDS", "soon", "must be a number"),
        ("UPLOAD_TIMEOUT_SECONDS", "nan", "must be a finite number"),
        ("PORT", "70000", "must be less than or equal to 65535"),
        ("LOG_FORMAT", "xml", "must be 'console' or 'json'"),
        ("WHISPER_DEVICE_INDEX", "-1", "must be one or more numbers starting at 0, such as 0 or 0,1"),
    ],
)
def test_message_states_the_requirement_the_value_and_the_remedy(
    name: str, value: str, requirement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert messages_for(monkeypatch, **{name: value}) == [f'{name} {requirement}, got "{value}"{REMEDY}']


def test_each_invalid_value_has_its_own_message(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = messages_for(monkeypatch, PORT="70000", WHISPER_DEVICE="gpu", MAX_QUEUED_JOBS="0", LOG_FORMAT="xml")
    assert {message.partition(" must ")[0] for message in messages} == {
        *("PORT", "WHISPER_DEVICE", "MAX_QUEUED_JOBS", "LOG_FORMAT"),
    }
    assert len(messages) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "-1"),
        ("WEB_PAGE", "maybe"),
        ("MAX_CONCURRENT_REQUESTS", "0"),
        ("MAX_CONCURRENT_REQUESTS", "257"),
        ("MAX_CONCURRENT_REQUESTS", "2.5"),
        ("WHISPER_MODELS", "tiny,auto"),
        ("WHISPER_MAX_LOADED_MODELS", "0"),
        ("WHISPER_MAX_LOADED_MODELS", "-1"),
        ("WHISPER_MAX_LOADED_MODELS", "all"),
        ("WHISPER_MODEL_ALIASES", "Fast=tiny"),
        ("WHISPER_MODEL_ALIASES", "=auto"),
        ("WHISPER_MODEL_ALIASES", "="),
        ("WHISPER_MODEL_ALIASES", "fast=auto=small"),
        ("WHISPER_MODEL_ALIASES", "fast,fast=auto"),
        ("WHISPER_MODEL_ALIASES", "auto"),
        ("WHISPER_BEAM_SIZE", "11"),
        ("WHISPER_BATCH_SIZE", "0"),
        ("WHISPER_BATCH_SIZE", "65"),
        ("WHISPER_BATCH_SIZE", "many"),
        ("DIARIZATION_MODEL", "pyannote"),
        ("DIARIZATION_THREADS", "-1"),
        ("WHISPER_DEVICE_INDEX", "0,a"),
        ("WHISPER_DEVICE_INDEX", "-1"),
        ("WHISPER_DEVICE_INDEX", ","),
        ("UPLOAD_TIMEOUT_SECONDS", "0"),
        ("UPLOAD_TIMEOUT_SECONDS", "nan"),
        ("UPLOAD_MAX_ATTEMPTS", "0"),
        ("DELIVERY_MAX_AGE_SECONDS", "-1"),
        ("DELIVERY_MAX_AGE_SECONDS", "nan"),
        ("DELIVERY_MAX_AGE_SECONDS", "a day"),
        ("SHUTDOWN_GRACE_SECONDS", "-1"),
        ("SHUTDOWN_GRACE_SECONDS", "nan"),
        ("JOB_RETENTION_SECONDS", "an hour"),
        ("JOB_RETENTION_SECONDS", "nan"),
        ("MAX_UPLOAD_BYTES", "2GB"),
        ("SPOOL_MAX_BYTES", "-1"),
        ("SPOOL_MAX_BYTES", "1000000"),
        ("SPOOL_MIN_FREE_BYTES", "-1"),
        ("SPOOL_MIN_FREE_BYTES", "1G"),
        ("CORS_ALLOWED_ORIGINS", "app.example.com"),
        ("CORS_ALLOWED_ORIGINS", "https://app.example.com/page"),
        ("CORS_ALLOWED_ORIGINS", "https://app.example.com, null"),
        ("CORS_ALLOWED_ORIGINS", "https://app.example.com:99999"),
        ("CORS_ALLOWED_ORIGINS", "*"),
        ("LOG_LEVEL", "loud"),
        ("URL_ALLOWED_HOSTS", "http://minio.local"),
        ("URL_ALLOWED_HOSTS", "a b"),
        ("URL_ALLOWED_HOSTS", "minio.local:99999"),
    ],
)
def test_message_is_one_readable_sentence(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = messages_for(monkeypatch, **{name: value})
    assert message.startswith(f"{name} must ")
    assert message.endswith(f'"{REMEDY}')
    assert "\n" not in message
    assert ".." not in message


def test_malformed_allowed_host_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = messages_for(monkeypatch, URL_ALLOWED_HOSTS="minio.local, http://other")
    assert "('http://other' is neither)" in message


def test_env_file_gives_the_same_messages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("PORT=eighty\n")
    assert messages_for(monkeypatch) == [f'PORT must be a whole number, got "eighty"{REMEDY}']


@pytest.mark.parametrize(
    ("text", "names", "keys"),
    [
        ("one", ("#1",), ("one",)),
        (" one , two,,", ("#1", "#2"), ("one", "two")),
        ("123", ("#1",), ("123",)),
        ("alice:one,two,bob-2.x:th=ree==", ("alice", "#2", "bob-2.x"), ("one", "two", "th=ree==")),
        (",", (), ()),
    ],
)
def test_keys_are_comma_separated_and_can_have_names(
    text: str, names: tuple[str, ...], keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEYS", text)
    api_keys = Settings.load().api_keys
    assert tuple(key.name for key in api_keys) == names
    assert [api_keys.authenticate(f"Bearer {key}", setting="API_KEYS").name for key in keys] == list(names)


@pytest.mark.parametrize("name", ["API_KEYS", "METRICS_KEY"])
@pytest.mark.parametrize("text", ["sü-secret", "two words-secret", "a b:secret", ":secret", "a:", "a:secret,a:secret2"])
def test_malformed_keys_are_refused_without_quoting_them(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = messages_for(monkeypatch, **{name: text})
    assert message.startswith(f"{name} must ")
    assert "secret" not in message


def test_duplicate_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "must list each key once" in messages_for(monkeypatch, API_KEYS="one,a:one")[0]


def test_settings_hold_only_digests_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "alice:sk-secret,sk-other")
    monkeypatch.setenv("METRICS_KEY", "sk-metrics")
    settings = Settings.load()
    for shown in (repr(settings), repr(settings.model_dump()), repr(settings.api_keys), repr(settings.metrics_key)):
        assert "sk-" not in shown
    assert b"sk-" not in b"".join(key.digest for key in (*settings.api_keys, *settings.metrics_key))


@pytest.mark.parametrize(
    ("text", "rate"), [("600/minute", Rate(600, 60)), (" 5 / Second ", Rate(5, 1)), ("1/day", Rate(1, 86400))]
)
def test_rate_limit_is_parsed(text: str, rate: Rate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE_LIMIT", text)
    assert Settings.load().rate_limit == rate


@pytest.mark.parametrize("text", ["600", "0/minute", "-1/minute", "5/fortnight", "1.5/second", "many/minute"])
def test_malformed_rate_limit_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = messages_for(monkeypatch, RATE_LIMIT=text)
    assert "such as 600/minute" in message


@pytest.mark.parametrize("text", ["proxy.local", "10.0.0.0/33", "10.0.0.1/8"])
def test_malformed_proxy_address_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = messages_for(monkeypatch, FORWARDED_ALLOW_IPS=text)
    assert "must be addresses or networks such as 10.0.0.0/8" in message


@pytest.mark.parametrize(("text", "indexes"), [("0", (0,)), ("0,1", (0, 1)), (" 2 , 3 ", (2, 3))])
def test_device_indexes_are_comma_separated(
    text: str, indexes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHISPER_DEVICE_INDEX", text)
    assert Settings.load().whisper_device_index == indexes


@pytest.mark.parametrize(
    ("text", "models"),
    [("tiny", ("tiny",)), (" tiny , /models/a b,, org/name", ("tiny", "/models/a b", "org/name")), (",", ())],
)
def test_models_are_comma_separated(text: str, models: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER_MODELS", text)
    assert Settings.load().whisper_models == models


@pytest.mark.parametrize(
    ("text", "aliases"),
    [
        ("fast=tiny", {"fast": "tiny"}),
        ("best", {"best": ""}),
        ("best=", {"best": ""}),
        (" fast = tiny , best=large-v3,, team/asr ", {"fast": "tiny", "best": "large-v3", "team/asr": ""}),
        ("whisper-1=tiny", {"whisper-1": "tiny"}),
        (",", {}),
    ],
)
def test_aliases_are_comma_separated_and_can_name_a_model(
    text: str, aliases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHISPER_MODEL", "large-v3")
    monkeypatch.setenv("WHISPER_MODELS", "tiny")
    monkeypatch.setenv("WHISPER_MODEL_ALIASES", text)
    assert Settings.load().whisper_model_aliases == aliases


@pytest.mark.parametrize(
    ("text", "requirement"),
    [
        ("Fast=base", "must map Fast to WHISPER_MODEL or to one of WHISPER_MODELS"),
        ("a=tiny=b", "must map a to WHISPER_MODEL or to one of WHISPER_MODELS"),
        ("=tiny", "must be alias=model or alias entries separated by commas"),
        ("fast=tiny,fast=small", "must list each alias once"),
        ("tiny=small", "must not use the name of a model as an alias (tiny is a model)"),
        ("small", "must not use the name of a model as an alias (small is a model)"),
    ],
)
def test_invalid_alias_is_refused(text: str, requirement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = messages_for(monkeypatch, WHISPER_MODEL="small", WHISPER_MODELS="tiny", WHISPER_MODEL_ALIASES=text)
    assert message == f'WHISPER_MODEL_ALIASES {requirement}, got "{text}"{REMEDY}'


def test_aliases_are_not_checked_against_invalid_models(monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = messages_for(monkeypatch, WHISPER_MODELS="tiny,auto", WHISPER_MODEL_ALIASES="fast=tiny")
    assert message == (
        f'WHISPER_MODELS must name each model, such as small; only WHISPER_MODEL can be auto, got "tiny,auto"{REMEDY}'
    )


def test_allowed_hosts_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URL_ALLOWED_HOSTS", "minio.local:9000, 10.0.0.5")
    allowed = Settings.load().url_allowed_hosts
    assert allowed.covers("MINIO.local", 9000)
    assert not allowed.covers("minio.local", 9001)
    assert allowed.covers("10.0.0.5", 1)


def test_keys_never_appear_in_settings_or_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "sk-secret,sk-secret-too")
    settings = Settings.load()
    assert "secret" not in repr(settings)
    assert "secret" not in str(settings)
    assert "secret" not in f"{settings}"
    assert "secret" not in "\n".join(messages_for(monkeypatch, PORT="x", WHISPER_DEVICE_INDEX="y"))


def test_invalid_keys_are_not_quoted() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(api_keys=({"key": "sk-secret"},))
    messages = [_message(error) for error in caught.value.errors()]
    assert all(message.startswith("API_KEYS ") for message in messages)
    assert "secret" not in "".join(messages)


def test_spool_limit_is_at_least_the_largest_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = messages_for(monkeypatch, MAX_UPLOAD_BYTES="1000", SPOOL_MAX_BYTES="999")
    assert message == f'SPOOL_MAX_BYTES must be at least MAX_UPLOAD_BYTES, or 0 for no limit, got "999"{REMEDY}'
    monkeypatch.setenv("SPOOL_MAX_BYTES", "1000")
    assert Settings.load().spool_max_bytes == 1000


def test_longest_retention_is_at_least_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = messages_for(monkeypatch, JOB_RETENTION_SECONDS="60", MAX_RETENTION_SECONDS="59")
    assert message == (
        f'MAX_RETENTION_SECONDS must be at least JOB_RETENTION_SECONDS, or empty for the same, got "59"{REMEDY}'
    )
    for text, seconds in (("", 60.0), ("60", 60.0), ("86400", 86_400.0)):
        monkeypatch.setenv("MAX_RETENTION_SECONDS", text)
        assert Settings.load().longest_retention_seconds == seconds


def test_jobs_can_be_kept_for_a_week_unless_the_operator_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().longest_retention_seconds == 604_800
    monkeypatch.setenv("JOB_RETENTION_SECONDS", "3600")
    assert Settings.load().longest_retention_seconds == 3600


@pytest.mark.parametrize("key", [b"sixteen bytes, 16", bytes(range(24)), bytes(range(64))])
def test_webhook_secret_is_decoded(key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", f" whsec_{base64.b64encode(key).decode()} ")
    settings = Settings.load()
    assert settings.webhook_secret is not None
    assert settings.webhook_secret.key == key
    for shown in (repr(settings), str(settings), repr(settings.webhook_secret)):
        assert repr(key) not in shown
        assert base64.b64encode(key).decode() not in shown


@pytest.mark.parametrize("given", ["swordfish-swordfish-swordfish-swordfish", "whsec_c3dvcmRmaXNo", "whsec_swordfish!"])
def test_message_for_webhook_secret_explains_how_to_create_one(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = messages_for(monkeypatch, WEBHOOK_SECRET=given)
    assert message == (
        "WEBHOOK_SECRET must be whsec_ followed by the base64 of at least 16 random bytes; create one with "
        f"printf 'whsec_%s' \"$(head -c 32 /dev/urandom | base64 -w0)\"{REMEDY}"
    )


CLUSTER: Final = {
    "WHISPER_MODEL": "small",
    "DATABASE_URL": "postgresql://swordfish@localhost/jobs",
    "SPOOL_URL": "file:///spool",
    "CLUSTER_SECRET": "0123456789abcdef0123456789abcdef",
}


def test_settings_of_a_cluster_are_read_and_its_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**CLUSTER, "CLUSTER_SECRET": f"{'n' * 32}, {'o' * 32}"}.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert settings.cluster_secrets == ("n" * 32, "o" * 32)
    assert "swordfish" not in repr(settings)
    assert "nnn" not in repr(settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ROLE": "api", "DATABASE_URL": ""},
            "DATABASE_URL must be set with ROLE=api, because the nodes share a database",
        ),
        (
            {"WHISPER_MODEL": "auto"},
            "DATABASE_URL needs a WHISPER_MODEL other than auto, so that all nodes mean the same",
        ),
        ({"SPOOL_URL": ""}, "SPOOL_URL must be s3://bucket/prefix or file:///folder with DATABASE_URL"),
        ({"CLUSTER_SECRET": "swordfish"}, "CLUSTER_SECRET must have at least 32 random characters with DATABASE_URL"),
        ({"CLUSTER_SECRET": f"{'n' * 32},swordfish"}, "CLUSTER_SECRET must have at least 32 random characters"),
    ],
)
def test_incomplete_settings_of_a_cluster_are_one_sentence(
    changes: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sentence,) = messages_for(monkeypatch, **CLUSTER | changes)
    assert sentence.startswith(message)
    assert sentence.endswith(REMEDY)
    assert "swordfish" not in sentence
