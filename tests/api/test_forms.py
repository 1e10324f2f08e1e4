"""Form fields in every spelling that clients use, and the sentence for each that can't be read."""

from __future__ import annotations

import json
from contextlib import suppress
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.forms import Fields, json_value
from app.domain.errors import InvalidRequest
from tests.domain.strategies import unhurried


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"
    BLUE = "blue"


def refusal(caught: pytest.ExceptionInfo[InvalidRequest]) -> tuple[str, str | None]:
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
    ],
)
def test_array_is_read_in_every_spelling(received: dict[str, list[str]]) -> None:
    assert Fields(received).choices("colours", Colour) == {Colour.RED, Colour.BLUE}


def test_items_keep_their_order_and_their_repetitions() -> None:
    assert Fields({"words": ["b, a", "b"]}).items("words") == ["b", "a", "b"]


@pytest.mark.parametrize("received", [{}, {"colours": []}, {"colours": [""]}, {"colours[]": [" , "]}])
def test_array_without_members_is_empty(received: dict[str, list[str]]) -> None:
    assert Fields(received).choices("colours", Colour) == frozenset()


def test_unknown_choice_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Fields({"colours[]": ["red,pink"]}).choices("colours", Colour)
    assert refusal(caught) == ("colours=pink is not allowed: choose one of red, green, blue.", "colours")


def test_choice_left_out_is_neither_taken_nor_offered() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Fields({"colour": ["green"]}).choice("colour", Colour, without=frozenset({Colour.GREEN}))
    assert refusal(caught) == ("colour=green is not allowed: choose one of red, blue.", "colour")


@pytest.mark.parametrize("text", ["green", "GREEN", " Green\n"])
def test_choice_is_read_in_any_case(text: str) -> None:
    assert Fields({"colour": [text]}).choice("colour", Colour) is Colour.GREEN


@pytest.mark.parametrize("received", [{}, {"name": []}, {"name": [""]}, {"name": ["  "]}, {"name": ["", " "]}])
def test_empty_field_is_as_good_as_absent(received: dict[str, list[str]]) -> None:
    fields = Fields(received)
    assert not fields.has("name")
    assert fields.text("name") is None
    assert fields.number("name", least=0, most=1) is None
    assert fields.whole_number("name", least=0, most=1) is None
    assert fields.choice("name", Colour) is None
    assert fields.strings_object("name", max_bytes=10) is None
    assert fields.flag("name", default=True) is True
    assert fields.flag("name", default=False) is False


def test_field_counts_as_sent_in_every_spelling() -> None:
    for name in ("name", "name[]", "name[key]", "name[][key]"):
        assert Fields({name: ["x"]}).has("name")
    assert not Fields({"names": ["x"], "nam": ["x"]}).has("name")


def test_text_is_taken_as_it_is() -> None:
    assert Fields({"prompt": [" a,\nb "]}).text("prompt") == " a,\nb "


def test_equal_values_may_be_repeated_but_different_ones_not() -> None:
    assert Fields({"model": ["small", "", "small"]}).text("model") == "small"
    with pytest.raises(InvalidRequest) as caught:
        Fields({"model": ["small"], "model[]": ["large"]}).text("model")
    assert refusal(caught) == ("model was given more than once with different values: send it once.", "model")


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("1", 1.0), (" 0.25 ", 0.25), ("1e-1", 0.1), ("-0", 0.0)])
def test_number_is_read(text: str, value: float) -> None:
    assert Fields({"x": [text]}).number("x", least=0, most=1) == value


@pytest.mark.parametrize("text", ["1.0001", "-0.1", "nan", "inf", "-inf", "one", "0,5", "0x1", "1 2", "1e999"])
def test_number_outside_its_range_or_none_at_all_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Fields({"x": [text]}).number("x", least=0, most=1)
    assert refusal(caught) == (f"x={text} is not allowed: it must be a number from 0 to 1.", "x")


@unhurried
@given(st.text(alphabet="0123456789.-+eE_ naif٣½,\n"))
def test_number_is_in_range_or_refused_whatever_is_sent(text: str) -> None:
    with suppress(InvalidRequest):
        value = Fields({"x": [text]}).number("x", least=0, most=10)
        assert value is None or 0 <= value <= 10


def test_whole_number_is_read_and_a_broken_one_refused() -> None:
    assert Fields({"x": ["5"]}).whole_number("x", least=1, most=10) == 5
    assert Fields({"x": ["5.0"]}).whole_number("x", least=1, most=10) == 5
    with pytest.raises(InvalidRequest) as caught:
        Fields({"x": ["2.5"]}).whole_number("x", least=1, most=10)
    assert refusal(caught) == ("x=2.5 is not allowed: it must be a whole number.", "x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, True) for text in ("true", "True", "1", "yes", " ON ")),
        *((text, False) for text in ("false", "FALSE", "0", "no", "off")),
    ],
)
def test_flag_is_read_in_every_spelling(text: str, *, value: bool) -> None:
    assert Fields({"x": [text]}).flag("x", default=not value) is value


def test_flag_that_is_neither_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Fields({"x": ["maybe"]}).flag("x", default=True)
    assert refusal(caught) == ("x=maybe is not allowed: it must be true or false.", "x")


def test_long_value_is_not_quoted_at_length() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Fields({"x": ["y" * 100_000]}).flag("x", default=True)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "received",
    [{"metadata": ['{"a": "1", "b": "ü"}']}, {"metadata[a]": ["1"], "metadata[b]": ["ü"]}],
)
def test_object_is_read_as_json_and_in_brackets(received: dict[str, list[str]]) -> None:
    assert Fields(received).strings_object("metadata", max_bytes=4096) == {"a": "1", "b": "ü"}


@pytest.mark.parametrize("text", ["[]", '"a"', "1", "null", "true", '{"a": 1}', '{"a": null}', '{"a": {"b": "c"}}'])
def test_json_that_is_no_object_of_strings_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Fields({"metadata": [text]}).strings_object("metadata", max_bytes=4096)
    assert refusal(caught) == (
        'metadata is not allowed: it must be a JSON object of strings, such as {"key": "value"}.',
        "metadata",
    )


@pytest.mark.parametrize("text", ["{", "a", "{'a': 'b'}", "[" * 4000, '{"a": "b"} c', "9" * 4300 + "x"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Fields({"metadata": [text]}).strings_object("metadata", max_bytes=8192)
    assert refusal(caught) == ("metadata is not JSON: send it as a JSON object.", "metadata")


def test_object_may_have_as_many_bytes_as_allowed_and_no_more() -> None:
    text = json.dumps({"a": "ü" * 10}, ensure_ascii=False)
    size = len(text.encode())
    assert Fields({"metadata": [text]}).strings_object("metadata", max_bytes=size) == {"a": "ü" * 10}
    with pytest.raises(InvalidRequest) as caught:
        Fields({"metadata": [text]}).strings_object("metadata", max_bytes=size - 1)
    assert refusal(caught) == (f"metadata is too large: at most {size - 1} bytes are allowed.", "metadata")


def test_object_in_brackets_has_the_same_limit() -> None:
    with pytest.raises(InvalidRequest, match="metadata is too large"):
        Fields({"metadata[a]": ["x" * 5000]}).strings_object("metadata", max_bytes=4096)


def test_half_a_character_is_refused_because_no_answer_could_hold_it() -> None:
    r"""JSON may say ``\ud800``, which UTF-8 can't."""
    for text in (r'{"a": "\ud800"}', r'{"\udfff": "b"}'):
        with pytest.raises(InvalidRequest) as caught:
            Fields({"metadata": [text]}).strings_object("metadata", max_bytes=4096)
        assert caught.value.param == "metadata"


def test_whole_character_in_two_halves_is_one_character() -> None:
    assert Fields({"metadata": [r'{"a": "\ud83d\ude00"}']}).strings_object("metadata", max_bytes=4096) == {"a": "😀"}


def test_members_are_what_stands_in_brackets() -> None:
    fields = Fields({"a[b]": ["1", "2"], "a[c]": ["3"], "a": ["4"], "a[d": ["5"], "ab[e]": ["6"]})
    assert fields.members("a") == {"b": "2", "c": "3"}


def test_json_value_is_what_the_json_means() -> None:
    assert json_value("x", '{"type": "server_vad", "threshold": 0.5}') == {"type": "server_vad", "threshold": 0.5}
