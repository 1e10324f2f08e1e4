"""The models of a server, their names and aliases, and what each of them can do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidRequest, UnknownModel
from app.domain.transcript import Task
from app.transcription.models import ModelRegistry, ModelState

BUILT_IN = ("whisper-1", "gpt-transcribe", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-transcribe-diarize")
NAMES = ("small", "tiny.en", "org/distil-large-v3", "/models/large-v3")


def model_registry(**aliases: str) -> ModelRegistry:
    return ModelRegistry(NAMES[0], NAMES[1:], {name.replace("_", "-"): model for name, model in aliases.items()})


def test_models_keep_their_order_without_duplicates() -> None:
    models = ModelRegistry("small", ("tiny", "small", "base", "tiny"))
    assert [state.name for state in models.states] == ["small", "tiny", "base"]
    assert models.default.name == "small"


def test_names_are_models_followed_by_aliases() -> None:
    assert ModelRegistry("small").names == ("small", *BUILT_IN)
    assert model_registry(fast="tiny.en", best="").names == (*NAMES, *BUILT_IN, "fast", "best")


@pytest.mark.parametrize("name", NAMES)
def test_model_is_found_by_its_name(name: str) -> None:
    assert model_registry().find(name).name == name
    assert model_registry().find(f" {name} ").name == name


@pytest.mark.parametrize("given", [None, "", "  ", *BUILT_IN, " whisper-1 ", "best"])
def test_missing_name_and_empty_alias_mean_the_default_model(given: str | None) -> None:
    assert model_registry(best="").find(given).name == "small"


def test_alias_finds_its_model() -> None:
    assert model_registry(fast="tiny.en").find("fast").name == "tiny.en"


def test_whisper_1_can_be_an_alias_of_another_model() -> None:
    models = model_registry(whisper_1="tiny.en")
    assert models.find("whisper-1").name == "tiny.en"
    assert models.find(None).name == "small"
    assert models.names.count("whisper-1") == 1


def test_model_name_takes_precedence_over_an_alias() -> None:
    models = ModelRegistry("small", ("whisper-1",))
    assert models.find("whisper-1").name == "whisper-1"
    assert models.names == ("small", *BUILT_IN)


@pytest.mark.parametrize("given", ["large", "Small", "small,tiny.en", "models/large-v3", "auto", "None"])
def test_unknown_model_is_rejected_with_the_known_names(given: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        model_registry(fast="tiny.en").find(given)
    assert str(caught.value) == (
        "`model` must be small or tiny.en or org/distil-large-v3 or /models/large-v3 or whisper-1 or gpt-transcribe or "
        "gpt-4o-transcribe or gpt-4o-mini-transcribe or gpt-4o-transcribe-diarize or fast, "
        f"got {given!r}: use one of these or omit it. "
        "WHISPER_MODELS and WHISPER_MODEL_ALIASES add names."
    )
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_path_has_a_public_name_that_requests_can_use() -> None:
    models = ModelRegistry("/models/large-v3", ("/other/large-v3", "org/small", "tiny"), {"fast": "/other/large-v3"})
    assert [state.public_name for state in models.states] == ["large-v3", "large-v3", "org/small", "tiny"]
    assert models.find("large-v3").name == "/models/large-v3"
    assert models.find("fast").name == "/other/large-v3"
    assert ModelRegistry("/models/tiny", ("tiny",)).find("tiny").name == "tiny"


def test_long_unknown_name_is_shortened_in_the_message() -> None:
    with pytest.raises(UnknownModel) as caught:
        model_registry().find("x" * 5000)
    assert len(str(caught.value)) < 450


def test_any_name_means_the_default_model_if_the_server_accepts_it() -> None:
    models = ModelRegistry("/models/small", ("tiny",), {"fast": "tiny"}, accepts_any=True)
    assert models.choose(" large-v9 ") == (
        models.default,
        ("`model` 'large-v9' is none of this server's names, so small was used.",),
    )
    for known, name in (
        (None, "/models/small"),
        ("", "/models/small"),
        ("whisper-1", "/models/small"),
        ("fast", "tiny"),
    ):
        state, warnings = models.choose(known)
        assert (state.name, warnings) == (name, ())
    with pytest.raises(UnknownModel):
        models.find("large-v9")
    with pytest.raises(UnknownModel):
        ModelRegistry("small").choose("large-v9")


def test_warning_about_another_name_is_short_and_has_no_secret() -> None:
    models = ModelRegistry("small", accepts_any=True)
    (warning,) = models.choose("x" * 5000)[1]
    assert len(warning) < 200
    (warning,) = models.choose("https://bucket.example/key?X-Amz-Signature=secret")[1]
    assert "secret" not in warning


@given(st.text())
def test_any_name_is_either_found_or_rejected(given: str) -> None:
    models = model_registry(fast="tiny.en")
    try:
        found = models.find(given)
    except UnknownModel:
        assert given.strip() not in models.names
    else:
        assert given.strip() in ("", *models.names, *(state.public_name for state in models.states))
        assert found in models.states


def test_auto_gets_its_real_name_once_loaded() -> None:
    models = ModelRegistry("auto", ("tiny",), {"best": ""}, compute_type="auto")
    models.update("auto", ModelState(name="small", loaded=True, compute_type="int8"))
    assert models.names == ("small", "tiny", *BUILT_IN, "best")
    for wanted in (None, "small", *BUILT_IN, "best"):
        assert models.find(wanted) is models.default
    assert (models.default.loaded, models.default.compute_type) == (True, "int8")
    assert models.find("tiny").compute_type == "auto"


@pytest.mark.parametrize("others", [("small",), ("tiny", "small"), ("small", "tiny")])
def test_auto_stays_the_default_if_it_is_another_listed_model(others: tuple[str, ...]) -> None:
    models = ModelRegistry("auto", others)
    models.update("auto", ModelState(name="small", loaded=True))
    assert models.default.name == "small"
    assert [state.name for state in models.states] == ["small", *(name for name in others if name != "small")]
    assert models.find("small").loaded


def test_alias_of_auto_finds_the_real_model() -> None:
    models = ModelRegistry("auto", ("tiny",), {"best": "auto", "fast": "tiny"})
    assert models.find("best").name == "auto"
    models.update("auto", ModelState(name="small", loaded=True))
    assert models.find("best").name == "small"
    assert models.find("fast").name == "tiny"


def test_update_changes_one_model() -> None:
    models = model_registry()
    before = models.states
    models.update("tiny.en", ModelState(name="tiny.en", loaded=True, device="cuda"))
    state = models.find("tiny.en")
    assert (state.name, state.loaded, state.device) == ("tiny.en", True, "cuda")
    assert [other for other in models.states if other is not state] == [
        other for other in before if other.name != "tiny.en"
    ]


@pytest.mark.parametrize(
    ("name", "can_translate"),
    [
        ("large-v3", True),
        ("org/faster-whisper-medium", True),
        ("/models/english", True),
        ("large-v3-turbo", False),
        ("org/Whisper-Large-V3-TURBO", False),
        ("org/distil-large-v3", False),
        ("small.en", False),
        ("/models/small.en/", False),
    ],
)
def test_ability_to_translate_follows_from_the_name(
    name: str,
    can_translate: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    model = ModelRegistry(name).default
    model.require(task=Task.TRANSCRIBE, language=None)
    if can_translate:
        model.require(task=Task.TRANSLATE, language=None)
        return
    with pytest.raises(InvalidRequest, match="WHISPER_MODEL") as caught:
        model.require(task=Task.TRANSLATE, language=None)
    assert name in str(caught.value)
    assert caught.value.param == "model"


def test_english_model_rejects_other_languages() -> None:
    model = model_registry().find("tiny.en")
    for language in (None, "en"):
        model.require(task=Task.TRANSCRIBE, language=language)
    with pytest.raises(InvalidRequest, match=r"`language` must be en or absent, got de: the model tiny\.en only knows"):
        model.require(task=Task.TRANSCRIBE, language="de")


def test_model_found_to_be_english_rejects_other_languages_once_loaded() -> None:
    models = ModelRegistry("small", ("/models/mine",))
    models.find("/models/mine").require(task=Task.TRANSLATE, language="de")
    state = ModelState(name="/models/mine", loaded=True, is_multilingual=False)
    models.update("/models/mine", state)
    for task, language in ((Task.TRANSLATE, None), (Task.TRANSCRIBE, "de")):
        with pytest.raises(InvalidRequest, match="/models/mine"):
            models.find("/models/mine").require(task=task, language=language)
    models.default.require(task=Task.TRANSLATE, language="de")


def test_language_without_a_token_is_rejected() -> None:
    models = ModelRegistry("large-v2")
    models.find(None).require(task=Task.TRANSCRIBE, language="yue")  # not known before the model is loaded
    models.update("large-v2", ModelState(name="large-v2", loaded=True, languages=frozenset({"en", "zh"})))
    with pytest.raises(InvalidRequest, match="`language` must be one that the model large-v2 knows, got yue"):
        models.find(None).require(task=Task.TRANSCRIBE, language="yue")
    models.find(None).require(task=Task.TRANSCRIBE, language="zh")
