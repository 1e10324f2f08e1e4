"""Settings: their defaults, where they come from, and a sentence for each wrong one."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import ValidationError

from app.domain.access import AllowedHosts, ApiKeys, Rate, TrustedProxies
from app.settings import Settings, WrongSettings, _sentence

#: The contract's table, aliases for models, the bounds of the spool, and what keeps clients within bounds.
DEFAULTS: Final[dict[str, Any]] = {
    "HOST": "127.0.0.1",
    "PORT": 8000,
    "WHISPER_MODEL": "auto",
    "WHISPER_MODELS": (),
    "WHISPER_MAX_LOADED_MODELS": 1,
    "WHISPER_MODEL_ALIASES": {},
    "WHISPER_DEVICE": "auto",
    "WHISPER_COMPUTE_TYPE": "auto",
    "WHISPER_DEVICE_INDEX": (0,),
    "WHISPER_CPU_THREADS": 0,
    "WHISPER_BEAM_SIZE": 5,
    "WHISPER_BATCH_SIZE": "auto",
    "MAX_CONCURRENT_REQUESTS": 3,
    "MAX_QUEUED_JOBS": 1000,
    "UPLOAD_TIMEOUT_SECONDS": 600,
    "UPLOAD_CONNECT_TIMEOUT_SECONDS": 30,
    "UPLOAD_MAX_ATTEMPTS": 3,
    "DOWNLOAD_TIMEOUT_SECONDS": 3600,
    "DELIVERY_MAX_AGE_SECONDS": 86400,
    "WEBHOOK_SECRET": None,
    "SHUTDOWN_GRACE_SECONDS": 30,
    "JOB_RETENTION_SECONDS": 3600,
    "UNDELIVERED_RETENTION_SECONDS": 604800,
    "MAX_UPLOAD_BYTES": 2 * 1024**3,
    "MAX_AUDIO_SECONDS": 43200,
    "DATA_DIR": Path("data"),
    "SPOOL_MAX_BYTES": 0,
    "SPOOL_MIN_FREE_BYTES": 256 * 1024**2,
    "API_KEYS": ApiKeys(),
    "METRICS_KEY": ApiKeys(),
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
}


def wrong(patch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    """The sentences with which these variables stop the start."""
    for name, value in variables.items():
        patch.setenv(name, value)
    with pytest.raises(WrongSettings) as caught:
        Settings.load()
    assert str(caught.value) == "\n".join(caught.value.sentences)
    return caught.value.sentences


def test_defaults_are_those_of_the_contract() -> None:
    settings = Settings.load()
    assert {name.upper(): getattr(settings, name) for name in Settings.model_fields} == DEFAULTS


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


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


def test_env_file_is_read_and_the_environment_goes_before_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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


def test_settings_can_not_be_changed() -> None:
    settings = Settings.load()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]  # what is refused


def test_wrong_value_gives_one_readable_sentence_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    (sentence,) = wrong(monkeypatch, MAX_CONCURRENT_REQUESTS="abc")
    assert sentence == (
        "MAX_CONCURRENT_REQUESTS=abc is wrong: input should be a valid integer, unable to parse string as an integer. "
        "Correct it in the environment or in .env."
    )


def test_several_wrong_values_give_a_sentence_each(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = wrong(monkeypatch, PORT="70000", WHISPER_DEVICE="gpu", MAX_QUEUED_JOBS="0", LOG_FORMAT="xml")
    assert [sentence.partition(" is wrong: ")[0] for sentence in sentences] == [
        "PORT=70000",
        "WHISPER_DEVICE=gpu",
        "MAX_QUEUED_JOBS=0",
        "LOG_FORMAT=xml",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "-1"),
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
        ("LOG_LEVEL", "loud"),
        ("URL_ALLOWED_HOSTS", "http://minio.local"),
        ("URL_ALLOWED_HOSTS", "a b"),
        ("URL_ALLOWED_HOSTS", "minio.local:99999"),
    ],
)
def test_sentence_is_one_readable_sentence(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (sentence,) = wrong(monkeypatch, **{name: value})
    head, _, reason = sentence.partition(" is wrong: ")
    assert head.startswith(f"{name}=")
    assert reason.endswith(". Correct it in the environment or in .env.")
    assert "\n" not in sentence
    assert ".." not in sentence
    assert reason[:2].islower() or reason.startswith(name)


def test_allowed_host_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (sentence,) = wrong(monkeypatch, URL_ALLOWED_HOSTS="minio.local, http://other")
    assert "'http://other' is not a host or host:port" in sentence


def test_env_file_gives_the_same_sentences(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("PORT=eighty\n")
    assert wrong(monkeypatch)[0].startswith("PORT=eighty is wrong: ")


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
def test_keys_are_separated_by_commas_and_may_have_names(
    text: str, names: tuple[str, ...], keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEYS", text)
    found = Settings.load().api_keys
    assert tuple(key.name for key in found) == names
    assert [found.required(f"Bearer {key}", setting="API_KEYS").name for key in keys] == list(names)


@pytest.mark.parametrize("name", ["API_KEYS", "METRICS_KEY"])
@pytest.mark.parametrize("text", ["sü-secret", "two words-secret", "a b:secret", ":secret", "a:", "a:secret,a:secret2"])
def test_keys_that_no_header_can_carry_are_refused_unseen(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sentence,) = wrong(monkeypatch, **{name: text})
    assert sentence.startswith(f"{name} is wrong: must ")
    assert "secret" not in sentence


def test_key_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "must give each key once" in wrong(monkeypatch, API_KEYS="one,a:one")[0]


def test_no_setting_holds_a_key_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "alice:sk-secret,sk-other")
    monkeypatch.setenv("METRICS_KEY", "sk-metrics")
    settings = Settings.load()
    for shown in (repr(settings), repr(settings.model_dump()), repr(settings.api_keys), repr(settings.metrics_key)):
        assert "sk-" not in shown
    assert b"sk-" not in b"".join(key.digest for key in (*settings.api_keys, *settings.metrics_key))


@pytest.mark.parametrize(
    ("text", "rate"), [("600/minute", Rate(600, 60)), (" 5 / Second ", Rate(5, 1)), ("1/day", Rate(1, 86400))]
)
def test_rate_is_requests_in_a_time(text: str, rate: Rate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE_LIMIT", text)
    assert Settings.load().rate_limit == rate


@pytest.mark.parametrize("text", ["600", "0/minute", "-1/minute", "5/fortnight", "1.5/second", "many/minute"])
def test_wrong_rate_is_told(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (sentence,) = wrong(monkeypatch, RATE_LIMIT=text)
    assert "such as 600/minute" in sentence


@pytest.mark.parametrize("text", ["proxy.local", "10.0.0.0/33", "10.0.0.1/8"])
def test_proxies_are_addresses_and_networks(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (sentence,) = wrong(monkeypatch, FORWARDED_ALLOW_IPS=text)
    assert "must be addresses or networks such as 10.0.0.0/8" in sentence


@pytest.mark.parametrize(("text", "indexes"), [("0", (0,)), ("0,1", (0, 1)), (" 2 , 3 ", (2, 3))])
def test_devices_are_separated_by_commas(text: str, indexes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER_DEVICE_INDEX", text)
    assert Settings.load().whisper_device_index == indexes


@pytest.mark.parametrize(
    ("text", "models"),
    [("tiny", ("tiny",)), (" tiny , /models/a b,, org/name", ("tiny", "/models/a b", "org/name")), (",", ())],
)
def test_further_models_are_separated_by_commas(
    text: str, models: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_aliases_are_separated_by_commas_and_name_a_model_or_none(
    text: str, aliases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHISPER_MODEL", "large-v3")
    monkeypatch.setenv("WHISPER_MODELS", "tiny")
    monkeypatch.setenv("WHISPER_MODEL_ALIASES", text)
    assert Settings.load().whisper_model_aliases == aliases


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Fast=base", "must name WHISPER_MODEL or one of WHISPER_MODELS behind the = of Fast"),
        ("a=tiny=b", "must name WHISPER_MODEL or one of WHISPER_MODELS behind the = of a"),
        ("=tiny", "must be alias=model or an alias alone, separated by commas"),
        ("fast=tiny,fast=small", "must give each alias once"),
        ("tiny=small", "the alias tiny is the name of a model itself"),
        ("small", "the alias small is the name of a model itself"),
    ],
)
def test_wrong_alias_is_quoted_as_it_was_given(text: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (sentence,) = wrong(monkeypatch, WHISPER_MODEL="small", WHISPER_MODELS="tiny", WHISPER_MODEL_ALIASES=text)
    assert sentence == f"WHISPER_MODEL_ALIASES={text} is wrong: {reason}. Correct it in the environment or in .env."


def test_aliases_are_not_blamed_for_models_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    (sentence,) = wrong(monkeypatch, WHISPER_MODELS="tiny,auto", WHISPER_MODEL_ALIASES="fast=tiny")
    assert sentence == (
        "WHISPER_MODELS=tiny,auto is wrong: must name each further model, such as small; auto is for WHISPER_MODEL "
        "alone. Correct it in the environment or in .env."
    )


def test_allowed_hosts_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URL_ALLOWED_HOSTS", "minio.local:9000, 10.0.0.5")
    allowed = Settings.load().url_allowed_hosts
    assert allowed.covers("MINIO.local", 9000)
    assert not allowed.covers("minio.local", 9001)
    assert allowed.covers("10.0.0.5", 1)


def test_keys_are_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "sk-secret,sk-secret-too")
    settings = Settings.load()
    assert "secret" not in repr(settings)
    assert "secret" not in str(settings)
    assert "secret" not in f"{settings}"
    assert "secret" not in "\n".join(wrong(monkeypatch, PORT="x", WHISPER_DEVICE_INDEX="y"))


def test_keys_are_not_printed_where_they_are_what_is_wrong() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(api_keys=({"key": "sk-secret"},))
    assert "API_KEYS" in _sentences(caught.value)
    assert "secret" not in _sentences(caught.value)


def _sentences(error: ValidationError) -> str:
    return "\n".join(_sentence(entry) for entry in error.errors())


def test_spool_takes_at_least_the_largest_file(monkeypatch: pytest.MonkeyPatch) -> None:
    (sentence,) = wrong(monkeypatch, MAX_UPLOAD_BYTES="1000", SPOOL_MAX_BYTES="999")
    assert sentence == (
        "SPOOL_MAX_BYTES=999 is wrong: must be at least MAX_UPLOAD_BYTES, or 0 for no limit. Correct it in the "
        "environment or in .env."
    )
    monkeypatch.setenv("SPOOL_MAX_BYTES", "1000")
    assert Settings.load().spool_max_bytes == 1000


@pytest.mark.parametrize("key", [b"sixteen bytes, 16", bytes(range(24)), bytes(range(64))])
def test_webhook_secret_is_the_bytes_behind_its_prefix(key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", f" whsec_{base64.b64encode(key).decode()} ")
    settings = Settings.load()
    assert settings.webhook_secret is not None
    assert settings.webhook_secret.key == key
    for shown in (repr(settings), str(settings), repr(settings.webhook_secret)):
        assert repr(key) not in shown
        assert base64.b64encode(key).decode() not in shown


@pytest.mark.parametrize("given", ["swordfish-swordfish-swordfish-swordfish", "whsec_c3dvcmRmaXNo", "whsec_swordfish!"])
def test_wrong_webhook_secret_is_not_quoted_and_the_sentence_says_how_to_make_one(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sentence,) = wrong(monkeypatch, WEBHOOK_SECRET=given)
    assert sentence == (
        "WEBHOOK_SECRET is wrong: must be whsec_ and the base64 of at least 16 random bytes; make one with "
        "printf 'whsec_%s' \"$(head -c 32 /dev/urandom | base64 -w0)\". Correct it in the environment or in .env."
    )
