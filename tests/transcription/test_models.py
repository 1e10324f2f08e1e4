"""Which models there are, under which names, and what each is asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidRequest, UnknownModel
from app.domain.transcript import Task
from app.transcription.models import ModelRegistry

NAMES = ("small", "tiny.en", "org/distil-large-v3", "/models/large-v3")


def model_registry(**aliases: str) -> ModelRegistry:
    return ModelRegistry(NAMES[0], NAMES[1:], {name.replace("_", "-"): model for name, model in aliases.items()})


def test_models_come_in_the_order_of_the_settings_and_each_once() -> None:
    models = ModelRegistry("small", ("tiny", "small", "base", "tiny"))
    assert [state.name for state in models.states] == ["small", "tiny", "base"]
    assert models.default.name == "small"


def test_names_are_those_of_the_models_then_the_aliases() -> None:
    assert ModelRegistry("small").names == ("small", "whisper-1")
    assert model_registry(fast="tiny.en", best="").names == (*NAMES, "whisper-1", "fast", "best")


@pytest.mark.parametrize("name", NAMES)
def test_model_is_found_by_its_name(name: str) -> None:
    assert model_registry().find(name).name == name
    assert model_registry().find(f" {name} ").name == name


@pytest.mark.parametrize("given", [None, "", "  ", "whisper-1", " whisper-1 ", "best"])
def test_default_is_found_by_no_name_and_by_aliases_without_a_model(given: str | None) -> None:
    assert model_registry(best="").find(given).name == "small"


def test_alias_stands_for_its_model() -> None:
    assert model_registry(fast="tiny.en").find("fast").name == "tiny.en"


def test_whisper_1_can_be_given_to_another_model() -> None:
    models = model_registry(whisper_1="tiny.en")
    assert models.find("whisper-1").name == "tiny.en"
    assert models.find(None).name == "small"
    assert models.names.count("whisper-1") == 1


def test_model_called_as_an_alias_is_found_by_its_name() -> None:
    models = ModelRegistry("small", ("whisper-1",))
    assert models.find("whisper-1").name == "whisper-1"
    assert models.names == ("small", "whisper-1")


@pytest.mark.parametrize("given", ["large", "Small", "small,tiny.en", "models/large-v3", "auto", "None"])
def test_unknown_model_is_refused_with_the_list_of_those_that_are_served(given: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        model_registry(fast="tiny.en").find(given)
    assert str(caught.value) == (
        f"The model {given!r} is not served here: use small or tiny.en or org/distil-large-v3 or /models/large-v3 or "
        "whisper-1 or fast, or leave model out. WHISPER_MODEL_ALIASES and WHISPER_MODELS add names."
    )
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_long_unknown_name_is_cut_short_in_the_refusal() -> None:
    with pytest.raises(UnknownModel) as caught:
        model_registry().find("x" * 5000)
    assert len(str(caught.value)) < 400


@given(st.text())
def test_whatever_is_asked_for_is_found_or_refused(given: str) -> None:
    models = model_registry(fast="tiny.en")
    try:
        found = models.find(given)
    except UnknownModel:
        assert given.strip() not in models.names
    else:
        assert given.strip() in ("", *models.names)
        assert found in models.states


def test_auto_gets_its_real_name_when_it_is_loaded() -> None:
    models = ModelRegistry("auto", ("tiny",), {"best": ""}, compute_type="auto")
    models.update("auto", name="small", loaded=True, compute_type="int8")
    assert models.names == ("small", "tiny", "whisper-1", "best")
    for wanted in (None, "small", "whisper-1", "best"):
        assert models.find(wanted) is models.default
    assert (models.default.loaded, models.default.compute_type) == (True, "int8")
    assert models.find("tiny").compute_type == "auto"


@pytest.mark.parametrize("others", [("small",), ("tiny", "small"), ("small", "tiny")])
def test_auto_that_turns_out_to_be_one_of_the_others_stays_the_default(others: tuple[str, ...]) -> None:
    models = ModelRegistry("auto", others)
    models.update("auto", name="small", loaded=True)
    assert models.default.name == "small"
    assert [state.name for state in models.states] == ["small", *(name for name in others if name != "small")]
    assert models.find("small").loaded


def test_alias_of_auto_stands_for_what_auto_turns_out_to_be() -> None:
    models = ModelRegistry("auto", ("tiny",), {"best": "auto", "fast": "tiny"})
    assert models.find("best").name == "auto"
    models.update("auto", name="small", loaded=True)
    assert models.find("best").name == "small"
    assert models.find("fast").name == "tiny"


def test_update_changes_one_model_and_gives_what_is_known_of_it_now() -> None:
    models = model_registry()
    before = models.states
    state = models.update("tiny.en", loaded=True, device="cuda")
    assert state is models.find("tiny.en")
    assert (state.name, state.loaded, state.device) == ("tiny.en", True, "cuda")
    assert [one for one in models.states if one is not state] == [one for one in before if one.name != "tiny.en"]
    assert not models.update("tiny.en", loaded=False).loaded


@pytest.mark.parametrize(
    ("name", "can"),
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
def test_model_is_asked_to_translate_only_if_its_name_does_not_say_that_it_can_not(
    name: str,
    can: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    model = ModelRegistry(name).default
    model.require(task=Task.TRANSCRIBE, language=None)
    if can:
        model.require(task=Task.TRANSLATE, language=None)
        return
    with pytest.raises(InvalidRequest, match="WHISPER_MODEL") as caught:
        model.require(task=Task.TRANSLATE, language=None)
    assert name in str(caught.value)
    assert caught.value.param == "model"


def test_english_model_is_not_asked_for_other_languages() -> None:
    model = model_registry().find("tiny.en")
    for language in (None, "en"):
        model.require(task=Task.TRANSCRIBE, language=language)
    with pytest.raises(InvalidRequest, match=r"language=de is not available: the model tiny\.en knows English only"):
        model.require(task=Task.TRANSCRIBE, language="de")


def test_model_that_turns_out_to_be_english_is_asked_for_nothing_else_from_then_on() -> None:
    models = ModelRegistry("small", ("/models/mine",))
    models.find("/models/mine").require(task=Task.TRANSLATE, language="de")
    state = models.update("/models/mine", loaded=True, is_multilingual=False)
    for task, language in ((Task.TRANSLATE, None), (Task.TRANSCRIBE, "de")):
        with pytest.raises(InvalidRequest, match="/models/mine"):
            state.require(task=task, language=language)
    models.default.require(task=Task.TRANSLATE, language="de")


def test_language_that_a_model_has_no_token_for_is_refused() -> None:
    models = ModelRegistry("large-v2")
    models.find(None).require(task=Task.TRANSCRIBE, language="yue")  # nobody knows yet
    models.update("large-v2", loaded=True, languages=frozenset({"en", "zh"}))
    with pytest.raises(InvalidRequest, match="language=yue is not available: the model large-v2 does not know it"):
        models.find(None).require(task=Task.TRANSCRIBE, language="yue")
    models.find(None).require(task=Task.TRANSCRIBE, language="zh")
