"""Rules that replace terms of a transcript: what they match, and the times of the words that they write."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidRequest
from app.domain.replacements import MAX_LENGTH, MAX_RULES, Replacements, checked_rules
from app.domain.transcript import TokenLogprob, Transcript, Word
from tests.domain.strategies import transcripts, unhurried
from tests.support.segments import a_segment


def replaced(text: str, **rules: str) -> str:
    return Replacements(rules.items()).replaced(text)


def some_words(*texts: str) -> tuple[Word, ...]:
    """Return words of 1 s each, of which the second is the least probable."""
    return tuple(
        Word(word=text, start=float(number), end=number + 1.0, probability=0.4 if number == 1 else 0.9)
        for number, text in enumerate(texts)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" We run Kubernets.", " We run Kubernetes."),
        (" KUBERNETS, kubernets's", " Kubernetes, Kubernetes's"),
        (" Kubernetsy mykubernets kubernets_2", " Kubernetsy mykubernets kubernets_2"),
        (" the «Kubernets»-cluster", " the «Kubernetes»-cluster"),
        (" cooper  netties now", " Kubernetes now"),
        (" Cooper, Netties", " Cooper, Netties"),
        (" O’Brian and O'brian", " O'Brien and O'Brien"),
        (" in C++ and C+++", " in C# and C#+"),
        (" Zoe\u0308 and ZOË", " Zoé and Zoé"),
        ("我住在北京市。", "我住在Beijing市。"),
        ("ไปกรุงเทพครับ", "ไปBangkokครับ"),
        (" हिन्दी हिन्द", " हिन्दी Hind"),
    ],
)
def test_rules_match_whole_words_in_any_case(text: str, expected: str) -> None:
    rules = {
        "Kubernets": "Kubernetes",
        "cooper netties": "Kubernetes",
        "O'Brian": "O'Brien",
        "c++": "C#",
        "zoë": "Zoé",
        "北京": "Beijing",
        "กรุงเทพ": "Bangkok",
        "हिन्द": "Hind",
    }
    assert Replacements(rules.items()).replaced(text) == expected


def test_longest_term_wins_and_nothing_is_replaced_twice() -> None:
    rules = {"new york": "NYC", "new": "old", "NYC": "wrong", "new york city": "the city"}
    assert replaced(" New York City, New York and new NYC", **rules) == " the city, NYC and old wrong"
    assert replaced(" a b", a="b", b="a") == " b a"


def test_marks_stay_with_the_character_before_them() -> None:
    assert replaced("กำกา", ก="x") == "กำxา"


def test_replaced_word_keeps_its_time_and_probability() -> None:
    segment = a_segment(" We run Kubernets.", 0.0, 3.0, words=some_words(" We", " run", " Kubernets."))
    result = Replacements([("kubernets", "Kubernetes")]).apply(segment)
    assert result.text == " We run Kubernetes."
    assert result.words == (*segment.words[:2], replace(segment.words[2], word=" Kubernetes."))


def test_times_of_words_merge_and_divide() -> None:
    rules = Replacements([("Cooper Netties", "Kubernetes"), ("NYC", "New York")])
    segment = a_segment(" Cooper Netties in NYC.", 0.0, 4.0, words=some_words(" Cooper", " Netties", " in", " NYC."))
    words = rules.apply(segment).words
    assert [(word.word, word.start, word.end, word.probability) for word in words] == [
        (" Kubernetes", 0.0, 2.0, 0.4),
        (" in", 2.0, 3.0, 0.9),
        (" New", 3.0, 3.4, 0.9),
        (" York.", 3.4, 4.0, 0.9),
    ]


def test_what_the_model_measured_stays() -> None:
    token = TokenLogprob(token=" NYC", logprob=-0.1, bytes=(32, 78, 89, 67))
    segment = replace(a_segment(" NYC"), logprobs=(token,), uncertain=True, speaker="A", channel=1)
    assert Replacements([("NYC", "New York")]).apply(segment) == replace(segment, text=" New York")


def test_segment_without_a_match_is_the_same() -> None:
    segment = a_segment(" We run  it.", words=some_words(" We", " run", " it."))
    for rules in (Replacements(), Replacements([("kubernets", "Kubernetes")]), Replacements([("it", "it")])):
        assert rules.apply(segment) is segment


texts = st.text(st.sampled_from("aAbé 你ก\u0e33.'’,\u0301\u200d\n"), max_size=12)


@unhurried
@given(texts, st.dictionaries(texts.filter(str.strip), st.just("Ω"), max_size=4))
def test_only_terms_of_the_rules_are_replaced(text: str, rules: dict[str, str]) -> None:
    """The text between replacements is that of the original, in order, and a text that is a rule is replaced."""
    position = 0
    for kept in Replacements(rules.items()).replaced(text).split("Ω"):
        assert kept in text[position:]
        position = text.index(kept, position) + len(kept)
    if text.strip():
        assert Replacements([(text, "Ω")]).replaced(text).strip() == "Ω"


@unhurried
@given(transcripts(), st.text(st.sampled_from("xy z"), min_size=1).filter(str.strip))
def test_words_of_a_changed_segment_spell_its_text_in_order(transcript: Transcript, new: str) -> None:
    for segment in transcript.segments:
        pieces = segment.text.split()
        if not pieces or not segment.words:
            continue
        result = Replacements([(pieces[0], new)]).apply(segment)
        if result is not segment:
            assert "".join(word.word for word in result.words).split() == result.text.split()
            times = [time for word in result.words for time in (word.start, word.end)]
            assert times == sorted(times)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({" ": "x"}, "`replace` has a rule without words: write what to replace as its key."),
        ({"a\n b": " "}, "`replace` must replace a b with 1 to 200 characters, got 0."),
        ({"a" * 99: "x" * (MAX_LENGTH + 1)}, f"`replace` must replace {'a' * 60} with 1 to 200 characters, got 201."),
        ({"a": "x\x00"}, "`replace` must replace a with text that can be shown: send it without control characters."),
        ({"A b": "x", "a B": "y"}, "`replace` has two rules for a B, and case makes no difference: send one of them."),
        (
            {str(number): "x" for number in range(MAX_RULES + 1)},
            "`replace` must have at most 500 rules, got 501: leave some out.",
        ),
    ],
)
def test_rule_that_cannot_be_used_is_rejected(rules: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        checked_rules(rules)
    assert (str(caught.value), caught.value.param) == (message, "replace")


def test_rules_are_kept_on_one_line() -> None:
    assert checked_rules({" a \n b ": " x\n y ", "A B": "x y"}) == (("a b", "x y"),)
