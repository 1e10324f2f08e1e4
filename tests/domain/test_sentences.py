"""Ends of sentences in the languages that Whisper writes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.sentences import sentence_ends
from tests.domain.strategies import unhurried


def sentences(text: str, language: str = "english") -> list[str]:
    return [text[start:end] for start, end in pairwise([0, *sentence_ends(text, language=language), len(text)])]


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("english", ["Dr. Smith paid 3.14 dollars.", " He left at 5 p.m. on Friday.", " OK?", " At 3 p.m.", " He"]),
        ("english", [' "Really?" she asked.', ' "Stop."', " (He left.)", " 'Well...'", " Yes!", " Wait…what?", " Oh…"]),
        ("english", [" J. K. Rowling met Mr. and Mrs. Brown in the U.S. Senate, e.g. here.", " So do I.", " Come."]),
        ("english", [" See No. 5, p. 12 and Fig. 3.", " No.", " Never.", " Visit example.com.", " St. Paul vs. Rome."]),
        ("english", [" yeah.", " mr. smith, ok?", " i see."]),
        ("german", ["Das ist z.B. ein Test.", " Am 3. Oktober kam Dr. h.c. Müller.", " „Ja.“", " »Nein.«", " Nr. 5."]),
        ("german", ["Der 1. FC kam um 5 Uhr.", " Z. B. Hunde, ca. 3 bzw. 400.", " Wir waren 2024.", " Dann ging er."]),
        ("french", ["M. Dupont et Mme. Curie.", " « Bonjour. »", " Il dit : « Oui ! »", " Et vous ?", " Voilà."]),
        ("spanish", ["¿Cómo está?", " ¡Hola!", " El Sr. García y la Dra. Ruiz llegaron.", " EE. UU. crece."]),
        ("portuguese", ["O Sr. Silva chegou.", " A Dra. Ana também.", " Sim?"]),
        ("italian", ["Il sig. Rossi è qui.", " Il dott. Bianchi?", " Ciao!"]),
        ("dutch", ["Dhr. Jansen is er, d.w.z. nu.", " Ja."]),
        ("swedish", ["T.ex. detta, bl.a. det.", " Hon kom."]),
        ("polish", ["To jest np. test.", " Prof. Nowak przyszedł, m.in. tu.", " Tak?"]),
        ("czech", ["Např. toto.", " Ing. Novák přišel, tj. on.", " Ano."]),
        ("russian", ["Это т.е. тест.", " В 1990 г. Он уехал.", " «Да!»", " А. С. Пушкин писал.", " Это я.", " Да."]),
        ("greek", ["Τι κάνεις;", " Καλά.", " Ναι, κύριε;", " Όχι."]),
        ("turkish", ["Doç. Dr. Ahmet geldi.", " Evet."]),
        ("vietnamese", ["Chào TS. Nam.", " Vâng."]),
        ("arabic", ["مرحبا.", " كيف حالك؟", " أنا بخير."]),
        ("urdu", ["یہ ہے۔", " کیا؟", " جی۔"]),
        ("hebrew", ["שלום.", " מה שלומך?", " טוב."]),
        ("hindi", ["यह एक वाक्य है।", " डॉ. शर्मा आए।", " क्या?", " हाँ।"]),
        ("korean", ["네.", " 안녕하세요.", " 잘 지내요?", " 응."]),
        ("chinese", ["你好。", "“真的吗？”", "是的！", "他说：“走吧。”", "圆周率是３．１４。"]),
        ("chinese", ["好吗?", "我很好!", "对...然后呢?", "嗯……好。"]),
        ("japanese", ["こんにちは。", "「本当ですか？」", "はい。", "「行く。」と言った。", "ね?", "うん"]),
        ("amharic", ["ሰላም።", " እንዴት ነህ፧", " ደህና።"]),
        ("armenian", ["Բարեւ։", " Ինչպե՞ս ես։"]),
        ("myanmar", ["ကောင်းတယ်။", " ဟုတ်ကဲ့။"]),
        ("khmer", ["សួស្តី។", " បាទ។"]),
        ("tibetan", ["ང་བདེ་པོ་ཡིན།", " ཡིན།"]),
        ("thai", ["สวัสดีครับ ผมชื่อสมชาย"]),
    ],
)  # fmt: skip
def test_sentences_end_where_their_readers_expect(language: str, expected: list[str]) -> None:
    assert sentences("".join(expected), language) == expected


def test_ordinal_numbers_are_those_of_german() -> None:
    assert sentences("He is 30. She left.") == ["He is 30.", " She left."]
    assert sentences("Der 30. Mai.", "german") == ["Der 30. Mai."]


@pytest.mark.parametrize("text", ["", " ", "Hello", "Hello. ", "...", "?!", "。", " .\n", "I"])
def test_end_of_the_text_is_not_listed(text: str) -> None:
    assert sentences(text) == [text]


PIECES = st.lists(
    st.sampled_from(
        [
            *"aA1.!?…。？؟।;\"'“”«»()「」\n\u00a0\u2028 我とΩ",
            "Dr.",
            " U.S.",
            "p.m. ",
            "3.",
            " No.",
            "...",
            "．",
            " »",
            "I.",
        ]
    ),
    max_size=30,
)


@unhurried
@given(PIECES.map("".join), st.sampled_from(["english", "german", "haitian creole"]))
def test_every_sentence_has_text_and_all_but_the_last_an_end(text: str, language: str) -> None:
    *ended, last = sentences(text, language)
    assert "".join([*ended, last]) == text
    assert all(set(sentence) & set(".!?…。？؟।;．") for sentence in ended)
    assert last.strip() or not ended
