"""The configuration of a session: updates, defaults, and a sentence for what is not valid."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.errors import InvalidRequest
from app.domain.transcript import Script
from app.realtime.audio import AudioFormat
from app.realtime.config import SessionConfig


def configured(**audio_input: Any) -> SessionConfig:
    return SessionConfig().updated({"type": "transcription", "audio": {"input": audio_input}})


def test_defaults_are_those_of_openai() -> None:
    config = SessionConfig()
    assert config.format is AudioFormat.PCM
    assert config.model_dump()["audio"]["input"]["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
    }
    assert config.options.model is config.options.language is None
    assert not config.includes_logprobs


def test_update_changes_only_what_it_names() -> None:
    config = configured(
        transcription={"language": "en", "prompt": "Names"}, turn_detection={"silence_duration_ms": 200}
    )
    config = config.updated({"audio": {"input": {"transcription": {"language": "de"}}}})
    assert (config.options.language, config.options.prompt) == ("de", "Names")
    assert config.turn_detection is not None
    assert config.turn_detection.silence_duration_ms == 200
    config = config.updated({"audio": {"input": {"transcription": None, "turn_detection": None}}})
    assert config.options.prompt is None
    assert config.turn_detection is None
    assert config.updated({"audio": {"input": {"turn_detection": {"type": "server_vad"}}}}).turn_detection is not None


def test_client_commits_with_models_that_have_no_turn_detection() -> None:
    config = configured(transcription={"model": "gpt-live-transcribe", "languages": ["en"]})
    assert config.turn_detection is None
    assert config.updated({"audio": {"input": {"transcription": {"prompt": "a"}}}}).turn_detection is None
    named = configured(transcription={"model": "gpt-live-transcribe"}, turn_detection={"type": "server_vad"})
    assert named.turn_detection is not None
    assert configured(transcription={"model": "gpt-transcribe"}).turn_detection is not None


@pytest.mark.parametrize("name", ["audio/pcm", "audio/pcmu", "audio/pcma"])
def test_formats(name: str) -> None:
    config = configured(format={"type": name})
    assert config.format.value == name
    assert configured(format={"type": "audio/pcma"}).updated(config.model_dump()).format.value == name


def test_options_of_the_model() -> None:
    config = configured(
        transcription={"model": "demo", "languages": ["zh-TW"], "prompt": "a", "keywords": ["etcd", "gRPC"]},
        turn_detection={"threshold": 0.7},
    ).updated({"include": ["item.input_audio_transcription.logprobs"]})
    options = config.options
    assert (options.model, options.language, options.script) == ("demo", "zh", Script.TRADITIONAL)
    assert (options.prompt, options.hotwords, options.token_logprobs) == ("a", "etcd, gRPC", True)
    assert options.speech_detection.threshold == 0.7


def test_unknown_members_are_ignored() -> None:
    config = configured(transcription={"delay": "low"}, turn_detection={"create_response": True}, anything=1)
    assert config == SessionConfig()


def test_what_has_no_effect_is_named() -> None:
    (warning,) = configured(noise_reduction={"type": "near_field"}).warnings
    assert "noise_reduction" in warning
    assert configured(noise_reduction=None).warnings == []


@pytest.mark.parametrize(
    ("update", "param", "words"),
    [
        (1, "session", "JSON object"),
        ({"type": "realtime"}, "session.type", "must be transcription, got realtime"),
        ({"audio": {"input": {"format": {"type": "audio/mp3"}}}}, "session.audio.input.format.type", "'audio/pcmu'"),
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}, None, "must be 24000, got 16000"),
        (
            {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}},
            "session.audio.input.turn_detection.type",
            "no semantic_vad",
        ),
        (
            {"audio": {"input": {"turn_detection": {"threshold": 7}}}},
            "session.audio.input.turn_detection.threshold",
            "must be less than or equal to 1, got 7",
        ),
        ({"audio": {"input": {"transcription": {"prompt": "a" * 20_000}}}}, None, "at most 16384 characters"),
        ({"audio": {"input": {"transcription": {"keywords": "a"}}}}, None, "must be a valid list"),
        ({"include": ["everything"]}, "session.include.0", "must be 'item.input_audio_transcription.logprobs'"),
        ({"audio": 3}, "session.audio", "must be a valid dictionary"),
    ],
)
def test_what_is_not_valid_gets_a_sentence(update: Any, param: str | None, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SessionConfig().updated(update)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")
    assert caught.value.param == param or param is None


@pytest.mark.parametrize(
    ("transcription", "language", "languages"),
    [
        ({}, None, ()),
        ({"languages": []}, None, ()),
        ({"languages": ["de"]}, "de", ()),
        ({"languages": ["en", "en-US"]}, "en", ()),
        ({"languages": ["en", "German", "zh-TW"]}, None, ("en", "de", "zh")),
        ({"language": "de", "languages": ["en", "de"]}, "de", ()),
        ({"language": "", "languages": ["en", ""]}, "en", ()),
    ],
)
def test_several_languages_are_candidates(
    transcription: dict[str, Any], language: str | None, languages: tuple[str, ...]
) -> None:
    config = configured(transcription=transcription)
    assert (config.options.language, config.options.languages) == (language, languages)
    assert config.options.script is (Script.TRADITIONAL if "zh" in languages else None)
    assert config.warnings == []


@pytest.mark.parametrize(
    ("transcription", "param", "words"),
    [
        ({"language": "klingon"}, "language", "got klingon"),
        ({"languages": ["en", "klingon"]}, "languages", "got klingon"),
        ({"language": "fr", "languages": ["en", "de"]}, "language", "must be one of `languages`, got fr"),
    ],
)
def test_language_that_is_not_valid_gets_a_sentence(transcription: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        _ = configured(transcription=transcription).options
    assert caught.value.param == f"session.audio.input.transcription.{param}"
