"""Kinds of form fields: every spelling that clients use, and the message for each invalid value."""

from __future__ import annotations

import json
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.fields import (
    Choice,
    ChoiceList,
    Field,
    Flag,
    Form,
    Number,
    StringObject,
    Text,
    TextList,
    WholeNumber,
    parse_json,
)
from app.api.forms import TRANSCRIPTION_FIELDS
from app.domain.errors import InvalidRequest
from tests.domain.strategies import unhurried


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"
    BLUE = "blue"


COLOUR: Final = Choice("colour", choices=tuple(Colour))
COLOURS: Final = ChoiceList("colours", choices=tuple(Colour))
FLAG: Final = Flag("x")
METADATA: Final = StringObject("metadata", max_bytes=4096)
NUMBER: Final = Number("x", minimum=0, maximum=1)
WHOLE_NUMBER: Final = WholeNumber("x", minimum=1, maximum=10)


def rejection(field: Field[Any], *values: str) -> tuple[str, str | None]:
    """Return the message and the ``param`` for invalid values of the field."""
    with pytest.raises(InvalidRequest) as caught:
        Form({field.name: list(values)})[field]
    return str(caught.value), caught.value.param


@pytest.mark.parametrize(
    "received",
    [
        {"colours[]": ["red", "blue"]},
        {"colours": ["red", "blue"]},
        {"colours": ["red,blue"]},
        {"colours[]": [" red , blue ,"]},
        {"colours": ["red"], "colours[]": ["blue"]},
        {"colours": ["RED", "red", "Blue"]},
        {"colours": ["", "red", " ", "blue,,"]},
        {"colours": ['["red", "blue"]']},
    ],
)
def test_list_is_parsed_in_every_spelling(received: dict[str, list[str]]) -> None:
    assert Form(received)[COLOURS] == {Colour.RED, Colour.BLUE}


def test_list_items_keep_their_order_and_repetitions() -> None:
    assert Form({"words": ["b, a", "b"]})[TextList("words")] == ["b", "a", "b"]


def test_alias_has_the_meaning_of_the_field() -> None:
    field = TextList("keywords", aliases=("hotwords",))
    form = Form({"hotwords[]": ["a"], "keywords": ["b"]})
    assert form[field] == ["a", "b"]
    assert form.names_of(field) == ["keywords", "hotwords"]


@pytest.mark.parametrize("received", [{}, {"colours": []}, {"colours": [""]}, {"colours[]": [" , "]}])
def test_list_without_items_is_empty(received: dict[str, list[str]]) -> None:
    assert Form(received)[COLOURS] == frozenset()


def test_unknown_choice_is_rejected_with_the_allowed_ones() -> None:
    assert rejection(COLOURS, "red,pink") == ("`colours` must be one of red, green, blue, got pink.", "colours")
    some = Choice("colour", choices=(Colour.RED, Colour.BLUE))
    assert rejection(some, "green") == ("`colour` must be one of red, blue, got green.", "colour")


@pytest.mark.parametrize("text", ["green", "GREEN", " Green\n"])
def test_choice_is_case_insensitive(text: str) -> None:
    assert Form({"colour": [text]})[COLOUR] is Colour.GREEN


@pytest.mark.parametrize("received", [{}, {"name": []}, {"name": [""]}, {"name": ["  "]}, {"name": ["", " "]}])
def test_blank_field_counts_as_absent(received: dict[str, list[str]]) -> None:
    form = Form(received)
    assert not form.has(Text("name"))
    assert form[Text("name")] is None
    assert form[Number("name", minimum=0, maximum=1)] is None
    assert form[WholeNumber("name", minimum=0, maximum=1)] is None
    assert form[Choice("name", choices=tuple(Colour))] is None
    assert form[StringObject("name", max_bytes=10)] is None
    assert form[Flag("name", value_if_absent=True)] is True
    assert form[Flag("name")] is False


def test_form_has_a_field_in_every_spelling() -> None:
    for name in ("name", "name[]", "name[key]", "name[][key]"):
        assert Form({name: ["x"]}).has(Text("name"))
    assert not Form({"names": ["x"], "nam": ["x"]}).has(Text("name"))


def test_form_without_a_field_has_neither_it_nor_its_aliases() -> None:
    field = Text("prompt", aliases=("initial_prompt",))
    form = Form({"prompt": ["a"], "initial_prompt": ["a"], "model": ["b"]}).without([field])
    assert not form.has(field)
    assert form[Text("model")] == "b"


def test_text_is_not_changed() -> None:
    assert Form({"prompt": [" a,\nb "]})[Text("prompt")] == " a,\nb "


def test_text_over_its_limit_is_rejected_with_its_size() -> None:
    field = Text("prompt", max_bytes=4)
    assert Form({"prompt": ["üü"]})[field] == "üü"
    assert rejection(field, "üüx") == ("`prompt` must have at most 4 bytes, got 5.", "prompt")


def test_equal_values_may_be_repeated_but_different_ones_not() -> None:
    assert Form({"model": ["small", "", "small"]})[Text("model")] == "small"
    message = "`model` was sent more than once with different values: send it once."
    assert rejection(Text("model"), "small", "large") == (message, "model")


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("1", 1.0), (" 0.25 ", 0.25), ("1e-1", 0.1), ("-0", 0.0)])
def test_number_is_parsed(text: str, value: float) -> None:
    assert Form({"x": [text]})[NUMBER] == value


@pytest.mark.parametrize("text", ["1.0001", "-0.1", "inf", "-inf", "1e999"])
def test_number_outside_its_range_is_rejected(text: str) -> None:
    assert rejection(NUMBER, text) == (f"`x` must be between 0 and 1, got {text}.", "x")


@pytest.mark.parametrize("text", ["nan", "one", "0,5", "0x1", "1 2"])
def test_text_that_is_not_a_number_is_rejected(text: str) -> None:
    assert rejection(NUMBER, text) == (f"`x` must be a number between 0 and 1, got {text}.", "x")


@unhurried
@given(st.text(alphabet="0123456789.-+eE_ naif٣½,\n"))
def test_any_text_is_a_number_in_range_or_rejected(text: str) -> None:
    with suppress(InvalidRequest):
        value = Form({"x": [text]})[Number("x", minimum=0, maximum=10)]
        assert value is None or 0 <= value <= 10


def test_whole_number_is_parsed_and_a_fraction_rejected() -> None:
    assert Form({"x": ["5"]})[WHOLE_NUMBER] == 5
    assert Form({"x": ["5.0"]})[WHOLE_NUMBER] == 5
    assert rejection(WHOLE_NUMBER, "2.5") == ("`x` must be a whole number between 1 and 10, got 2.5.", "x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, True) for text in ("true", "True", "1", "yes", " ON ")),
        *((text, False) for text in ("false", "FALSE", "0", "no", "off")),
    ],
)
def test_flag_is_parsed_in_every_spelling(text: str, *, value: bool) -> None:
    assert Form({"x": [text]})[Flag("x", value_if_absent=not value)] is value


def test_flag_that_is_neither_true_nor_false_is_rejected() -> None:
    assert rejection(FLAG, "maybe") == ("`x` must be true or false, got maybe.", "x")


def test_long_value_is_cut_in_the_message() -> None:
    assert rejection(FLAG, "y" * 100_000) == (f"`x` must be true or false, got {'y' * 60}….", "x")


@pytest.mark.parametrize(
    "received",
    [{"metadata": ['{"a": "1", "b": "ü"}']}, {"metadata[a]": ["1"], "metadata[b]": ["ü"]}],
)
def test_object_is_parsed_as_json_and_in_brackets(received: dict[str, list[str]]) -> None:
    assert Form(received)[METADATA] == {"a": "1", "b": "ü"}


@pytest.mark.parametrize("text", ["[]", '"a"', "1", "null", "true", '{"a": 1}', '{"a": null}', '{"a": {"b": "c"}}'])
def test_json_that_is_not_an_object_of_strings_is_rejected(text: str) -> None:
    assert rejection(METADATA, text) == (
        '`metadata` must be a JSON object of strings, such as {"key": "value"}.',
        "metadata",
    )


@pytest.mark.parametrize("text", ["{", "a", "{'a': 'b'}", "[" * 4000, '{"a": "b"} c', "9" * 4300 + "x"])
def test_invalid_json_is_rejected(text: str) -> None:
    field = StringObject("metadata", max_bytes=8192)
    assert rejection(field, text) == ("`metadata` must be valid JSON: send a JSON object.", "metadata")


def test_object_over_its_limit_is_rejected_with_its_size() -> None:
    text = json.dumps({"a": "ü" * 10}, ensure_ascii=False)
    size = len(text.encode())
    assert Form({"metadata": [text]})[StringObject("metadata", max_bytes=size)] == {"a": "ü" * 10}
    message = f"`metadata` must have at most {size - 1} bytes, got {size}."
    assert rejection(StringObject("metadata", max_bytes=size - 1), text) == (message, "metadata")


def test_object_in_brackets_has_the_same_limit() -> None:
    with pytest.raises(InvalidRequest, match="must have at most 4096 bytes"):
        Form({"metadata[a]": ["x" * 5000]})[METADATA]


@pytest.mark.parametrize("text", [r'{"a": "\ud800"}', r'{"\udfff": "b"}'])
def test_lone_surrogate_is_rejected(text: str) -> None:
    r"""JSON can contain ``\ud800``, but no response in UTF-8 can."""
    assert rejection(METADATA, text)[1] == "metadata"


def test_surrogate_pair_is_one_character() -> None:
    assert Form({"metadata": [r'{"a": "\ud83d\ude00"}']})[METADATA] == {"a": "😀"}


def test_members_are_the_fields_in_brackets() -> None:
    form = Form({"a[b]": ["1", "2"], "a[c]": ["3"], "a": ["4"], "a[d": ["5"], "ab[e]": ["6"]})
    assert form.members(Text("a")) == {"b": "2", "c": "3"}


def test_json_is_parsed() -> None:
    assert parse_json("x", '{"type": "server_vad", "threshold": 0.5}') == {"type": "server_vad", "threshold": 0.5}


def test_no_two_fields_of_the_form_share_a_name() -> None:
    names = [name for field in TRANSCRIPTION_FIELDS for name in field.names]
    assert len(names) == len(set(names))


def test_every_field_of_the_form_is_described() -> None:
    for field in TRANSCRIPTION_FIELDS:
        assert field.schema()["description"].endswith(".")
