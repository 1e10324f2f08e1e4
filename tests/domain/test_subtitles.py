"""Subtitles: the text and times of cues, as other programs read them."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from itertools import groupby, pairwise, product
from typing import TYPE_CHECKING, Any, Final

import pytest
import srt as srt_library
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from app.domain.characters import display_width
from app.domain.subtitles import CUE_PER_SEGMENT, SubtitleLayout, srt, timestamp, vtt
from app.domain.transcript import Segment, Task, Transcript, Word
from tests.domain.strategies import transcripts, unhurried
from tests.support.segments import a_segment

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The start and end in milliseconds, and the text.
Cue = tuple[int, int, str]

HIGHLIGHT = SubtitleLayout(highlight_words=True)


def some_words(text: str, start: float = 0.0, *, seconds: float = 0.5) -> tuple[Word, ...]:
    """Return the words of ``text``, each with the space before it, without pauses between them."""
    return tuple(
        Word(word=word, start=start + index * seconds, end=start + (index + 1) * seconds, probability=0.9)
        for index, word in enumerate(re.findall(r"\s*\S+", text))
    )


def spoken(*words: Word, channel: int | None = None) -> Segment:
    """Return a segment that starts a little before its words and ends a little after them."""
    text = "".join(word.word for word in words)
    return a_segment(text, words[0].start - 0.1, words[-1].end + 0.1, words=words, channel=channel)


def a_transcript(*segments: Segment) -> Transcript:
    return Transcript(task=Task.TRANSCRIBE, language="english", duration=60.0, segments=segments)


def srt_cues(text: str) -> list[Cue]:
    """Return the cues that the ``srt`` library reads; it must also write them in the same way."""
    read = list(srt_library.parse(text))
    assert [cue.index for cue in read] == list(range(1, len(read) + 1))
    assert not any(cue.proprietary for cue in read)
    assert srt_library.compose(read, reindex=False) == text
    return [
        (round(cue.start.total_seconds() * 1000), round(cue.end.total_seconds() * 1000), cue.content) for cue in read
    ]


def vtt_cues(text: str) -> list[Cue]:
    """Return the cues that ``webvtt-py`` reads, as a player shows them: without tags and escapes."""
    read = webvtt.from_string(text, strict=True).captions
    assert not any(str(cue.settings) for cue in read)
    return [(cue.start_time.in_milliseconds(), cue.end_time.in_milliseconds(), html.unescape(cue.text)) for cue in read]


def both(transcript: Transcript, layout: SubtitleLayout = CUE_PER_SEGMENT) -> list[Cue]:
    """Return the cues, which both libraries must read alike, except the underlining of SubRip."""
    cues = srt_cues(srt(transcript, layout))
    assert vtt_cues(vtt(transcript, layout)) == [(start, end, _plain(text)) for start, end, text in cues]
    return cues


def _plain(text: str) -> str:
    return re.sub("</?u>", "", text)


def texts(cues: Sequence[Cue]) -> list[str]:
    return [text for _, _, text in cues]


ORIGIN = a_transcript(
    spoken(*some_words(" The quick brown fox", 1.0)),
    spoken(*some_words(" jumps over the lazy dog", 3.5)),
)


@pytest.mark.parametrize(
    ("layout", "needed"),
    [
        (SubtitleLayout(), False),
        (SubtitleLayout(max_line_width=40), True),
        (SubtitleLayout(max_line_count=2), True),
        (SubtitleLayout(highlight_words=True), True),
    ],
)
def test_any_layout_option_needs_words(layout: SubtitleLayout, *, needed: bool) -> None:
    assert layout.needs_words is needed


def test_default_layout_makes_each_segment_a_cue() -> None:
    assert both(ORIGIN) == [(900, 3100, "The quick brown fox"), (3400, 6100, "jumps over the lazy dog")]


def test_default_layout_uses_the_text_of_segments_not_words() -> None:
    segment = a_segment(" Two words.", 0, 1, words=some_words(" 2 words"))
    assert both(a_transcript(segment)) == [(0, 1000, "Two words.")]


def test_line_breaks_before_the_word_that_would_exceed_its_width() -> None:
    assert both(ORIGIN, SubtitleLayout(max_line_width=10)) == [
        (1000, 3000, "The quick\nbrown fox"),
        (3500, 6000, "jumps over\nthe lazy\ndog"),
    ]


def test_line_can_be_exactly_as_long_as_its_width() -> None:
    transcript = a_transcript(spoken(*some_words(" The quick brown fox")))
    assert texts(both(transcript, SubtitleLayout(max_line_width=19))) == ["The quick brown fox"]
    assert texts(both(transcript, SubtitleLayout(max_line_width=18))) == ["The quick brown\nfox"]


def test_word_longer_than_a_line_has_its_own_line() -> None:
    transcript = a_transcript(spoken(*some_words(" a Donaudampfschiff b")))
    assert texts(both(transcript, SubtitleLayout(max_line_width=4))) == ["a\nDonaudampfschiff\nb"]


def adjacent(*texts: str) -> Transcript:
    """Return a transcript of words without spaces between them."""
    words = [Word(word=text, start=start, end=start + 1, probability=0.9) for start, text in enumerate(texts)]
    return a_transcript(spoken(*words))


def test_lines_break_between_words_without_spaces_and_wide_characters_count_twice() -> None:
    transcript = adjacent("你好", "世界", "你")
    assert texts(both(transcript, SubtitleLayout(max_line_width=8))) == ["你好世界\n你"]
    assert texts(both(transcript, SubtitleLayout(max_line_width=7))) == ["你好\n世界你"]


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("", 0),
        ("abc", 3),
        ("grüße", 5),
        ("gru\u0308", 3),
        ("日本語", 6),
        ("ｱ", 1),
        ("Ａ", 2),
        ("한국", 4),
        ("สวัสดี", 4),
        ("שָׁלוֹם", 4),
        ("👍", 2),
    ],
)
def test_width_is_that_on_a_screen(text: str, width: int) -> None:
    assert display_width(text) == width


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(("ab", "น", "ำ"), id="thai vowel sign"),
        pytest.param(("ab", "क", "ा"), id="devanagari vowel sign"),
        pytest.param(("ab", "e", "\u0301"), id="accent"),
        pytest.param(("ab", "👩", "\u200d", "💻"), id="joined emoji"),
        pytest.param(("ab", "👍", "🏽"), id="skin tone"),
    ],
)
def test_line_never_breaks_within_a_character(parts: tuple[str, ...]) -> None:
    first, *character = parts
    for width in range(1, 10):
        (text,) = texts(both(adjacent(*parts), SubtitleLayout(max_line_width=width)))
        assert text in (f"{first}\n{''.join(character)}", "".join(parts))


@pytest.mark.parametrize("text", [" שלום עולם, מה שלומך היום", " مرحبا بالعالم، كيف حالك اليوم", " he said שלום twice"])
def test_text_from_right_to_left_keeps_the_order_of_its_words(text: str) -> None:
    transcript = a_transcript(spoken(*some_words(text)))
    for layout in (SubtitleLayout(), SubtitleLayout(max_line_width=12), SubtitleLayout(max_line_width=1)):
        (shown,) = texts(both(transcript, layout))
        assert shown.split() == text.split()


def test_width_counts_characters_before_escaping_and_underlining() -> None:
    transcript = a_transcript(spoken(*some_words(" a<&>b c")))
    layout = SubtitleLayout(max_line_width=7, highlight_words=True)
    assert texts(both(transcript, layout)) == ["<u>a<&>b</u> c", "a<&>b <u>c</u>"]


def test_line_count_alone_only_uses_the_times_of_words() -> None:
    expected = [(1000, 3000, "The quick brown fox"), (3500, 6000, "jumps over the lazy dog")]
    for count in (1, 2, 5):
        assert both(ORIGIN, SubtitleLayout(max_line_count=count)) == expected


def test_lines_flow_over_segments_if_width_and_count_are_set() -> None:
    assert both(ORIGIN, SubtitleLayout(max_line_width=16, max_line_count=2)) == [
        (1000, 4500, "The quick brown\nfox jumps over"),
        (4500, 6000, "the lazy dog"),
    ]


def test_cue_ends_after_its_line_count() -> None:
    assert both(ORIGIN, SubtitleLayout(max_line_width=10, max_line_count=1)) == [
        (1000, 2000, "The quick"),
        (2000, 3000, "brown fox"),
        (3500, 4500, "jumps over"),
        (4500, 5500, "the lazy"),
        (5500, 6000, "dog"),
    ]


@pytest.mark.parametrize(("start", "expected"), [(4.0, ["one two"]), (4.001, ["one", "two"])])
def test_more_than_three_seconds_between_starts_begin_a_new_cue(start: float, expected: list[str]) -> None:
    # The first word lasts until the second one: only the distance between their starts matters.
    first = Word(word=" one", start=1.0, end=start, probability=0.9)
    transcript = a_transcript(spoken(first, *some_words(" two", start)))
    assert texts(both(transcript, SubtitleLayout(max_line_width=40, max_line_count=2))) == expected


def test_blank_words_do_not_shorten_a_pause() -> None:
    transcript = a_transcript(spoken(*some_words(" one", 0)), a_segment(" ", 2, 3), spoken(*some_words(" two", 4)))
    assert texts(both(transcript, SubtitleLayout(max_line_width=40, max_line_count=2))) == ["one", "two"]


def test_pause_within_a_segment_does_not_split_its_cue() -> None:
    transcript = a_transcript(spoken(*some_words(" one"), *some_words(" two", 20)))
    for layout in (SubtitleLayout(max_line_width=40), SubtitleLayout(max_line_count=1)):
        assert both(transcript, layout) == [(0, 20_500, "one two")]


def test_each_word_is_underlined_while_it_is_spoken() -> None:
    transcript = a_transcript(spoken(*some_words(" one two", 1.0), *some_words(" three", 2.25)))
    assert both(transcript, HIGHLIGHT) == [
        (1000, 1500, "<u>one</u> two three"),
        (1500, 2000, "one <u>two</u> three"),
        (2000, 2250, "one two three"),
        (2250, 2750, "one two <u>three</u>"),
    ]


def test_underline_starts_after_the_line_break() -> None:
    layout = SubtitleLayout(max_line_width=4, max_line_count=2, highlight_words=True)
    transcript = a_transcript(spoken(*some_words(" one two six")))
    assert texts(both(transcript, layout)) == ["<u>one</u>\ntwo", "one\n<u>two</u>", "<u>six</u>"]


def test_repeated_word_is_underlined_only_where_it_is_spoken() -> None:
    word = Word(word=" no", start=0.0, end=0.0, probability=0.9)
    assert texts(both(a_transcript(spoken(word, word)), HIGHLIGHT)) == ["<u>no</u> no", "no <u>no</u>"]


def test_overlapping_words_leave_no_gap() -> None:
    first = Word(word=" long", start=0.0, end=3.0, probability=0.9)
    transcript = a_transcript(spoken(first, *some_words(" a", 0.5), *some_words(" b", 2)))
    assert texts(both(transcript, HIGHLIGHT)) == ["<u>long</u> a b", "long <u>a</u> b", "long a <u>b</u>"]


def test_gap_below_a_millisecond_makes_no_cue() -> None:
    transcript = a_transcript(spoken(*some_words(" a", seconds=0.5001), *some_words(" b", 0.5004)))
    assert texts(both(transcript, HIGHLIGHT)) == ["<u>a</u> b", "a <u>b</u>"]


@pytest.mark.parametrize("words", [(), (Word(word=" ", start=0.0, end=9.0, probability=0.0),)])
def test_segment_without_words_counts_as_one_word(words: tuple[Word, ...]) -> None:
    transcript = a_transcript(
        spoken(*some_words(" one", 0.5)), a_segment(" no words here", 1, 2, words=words), spoken(*some_words(" two", 2))
    )
    assert both(transcript, SubtitleLayout(max_line_width=4)) == [
        (500, 1000, "one"),
        (1000, 2000, "no words here"),
        (2000, 2500, "two"),
    ]
    flowing = SubtitleLayout(max_line_width=4, max_line_count=3)
    assert both(transcript, flowing) == [(500, 2500, "one\nno words here\ntwo")]
    assert both(transcript, HIGHLIGHT)[1] == (1000, 2000, "<u>no words here</u>")


def test_segments_of_several_channels_keep_their_order() -> None:
    transcript = a_transcript(
        spoken(*some_words(" one two three", 0), channel=0),
        spoken(*some_words(" yes", 0.5), channel=1),
        spoken(*some_words(" four", 1.5), channel=0),
    )
    assert both(transcript, SubtitleLayout(max_line_width=40)) == [
        (0, 1500, "one two three"),
        (500, 1000, "yes"),
        (1500, 2000, "four"),
    ]
    assert both(transcript, SubtitleLayout(max_line_width=40, max_line_count=2)) == [
        (0, 2000, "one two three yes four")
    ]


LAYOUTS: Final = [
    SubtitleLayout(max_line_width=width, max_line_count=count, highlight_words=highlight)
    for width, count, highlight in product([None, 1, 20, 42], [None, 1, 2], [False, True])
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blank_segments_make_no_cue(layout: SubtitleLayout) -> None:
    blank = Word(word=" \n", start=0.0, end=0.5, probability=0.1)
    assert srt(a_transcript(), layout) == ""
    assert vtt(a_transcript(), layout) == "WEBVTT\n\n"
    transcript = a_transcript(
        a_segment(""),
        a_segment("  \n"),
        a_segment(" ", words=(blank,)),
        spoken(*some_words(" one", 3)),
        a_segment("\t"),
    )
    assert [_plain(text) for text in texts(both(transcript, layout))] == ["one"]


def test_blank_words_separate_their_neighbours() -> None:
    words = [
        Word(word=text, start=i, end=i + 1, probability=0.9) for i, text in enumerate([" a", " ", "b\n", "c", " "])
    ]
    assert both(a_transcript(spoken(*words)), SubtitleLayout(max_line_count=1)) == [(0, 4000, "a b c")]


def test_all_kinds_of_line_breaks_become_spaces() -> None:
    text = " a\nb\r\nc\u2028d\x85e\x0bf\n\n2\n"
    assert texts(both(a_transcript(a_segment(text)))) == ["a b c d e f 2"]
    word = Word(word=text, start=0.0, end=1.0, probability=0.9)
    assert texts(both(a_transcript(spoken(word)), HIGHLIGHT)) == ["<u>a b c d e f 2</u>"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a --> b", "a -> b"),
        ("a ---> b", "a -> b"),
        ("a -----> b", "a -> b"),
        ("-->-->", "->->"),
        ("a\n-->\nb", "a -> b"),
        ("--\n>", "-- >"),
        ("->", "->"),
        ("<!-->", "<!->"),
    ],
)
def test_long_arrow_becomes_a_short_one(text: str, shown: str) -> None:
    assert texts(both(a_transcript(a_segment(text)))) == [shown]
    word = Word(word=text, start=0.0, end=1.0, probability=0.9)
    assert texts(both(a_transcript(spoken(word)), SubtitleLayout(max_line_width=2))) == [shown]


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        ([" --", ">"], "->"),
        ([" -", "-", ">"], "->"),
        ([" a-", "-", "->", " b"], "a-> b"),
        ([" -", "->", "-", "->"], "->->"),
        ([" --", " >"], "-- >"),
    ],
)
def test_arrow_spread_over_words_becomes_a_short_one(parts: list[str], shown: str) -> None:
    words = [Word(word=part, start=i, end=i + 1, probability=0.9) for i, part in enumerate(parts)]
    transcript = a_transcript(spoken(*words))
    assert texts(both(transcript, SubtitleLayout(max_line_width=20))) == [shown]
    assert {_plain(text) for text in texts(both(transcript, HIGHLIGHT))} == {shown}


def test_dashes_and_arrow_head_on_different_lines_are_kept() -> None:
    words = [Word(word=part, start=i, end=i + 1, probability=0.9) for i, part in enumerate([" --", ">"])]
    assert texts(both(a_transcript(spoken(*words)), SubtitleLayout(max_line_width=1))) == ["--\n>"]


@pytest.mark.parametrize(
    ("text", "in_vtt"),
    [
        ("a < b", "a &lt; b"),
        ("a > b", "a &gt; b"),
        ("AT&T &lt; <i>", "AT&amp;T &amp;lt; &lt;i&gt;"),
        ("<u>mine</u>", "&lt;u&gt;mine&lt;/u&gt;"),
        ("\"quoted\" 'too'", "\"quoted\" 'too'"),
        ("a --> b", "a -&gt; b"),
    ],
)
def test_webvtt_escapes_tags_and_character_references(text: str, in_vtt: str) -> None:
    transcript = a_transcript(a_segment(text))
    assert vtt(transcript).split("\n")[3] == in_vtt
    assert html.unescape(in_vtt) == srt(transcript).split("\n")[2]


def test_webvtt_does_not_escape_the_underlining() -> None:
    text = vtt(a_transcript(spoken(*some_words(" a < b"))), HIGHLIGHT)
    assert text.split("\n")[3::3] == ["<u>a</u> &lt; b", "a <u>&lt;</u> b", "a &lt; <u>b</u>"]


def test_subrip_does_not_escape_text() -> None:
    assert srt(a_transcript(a_segment(" a < b & c"))).split("\n")[2] == "a < b & c"


@pytest.mark.parametrize(
    ("seconds", "in_srt", "in_vtt"),
    [
        (0.0, "00:00:00,000", "00:00.000"),
        (59.9994, "00:00:59,999", "00:59.999"),
        (59.9996, "00:01:00,000", "01:00.000"),
        (3599.9996, "01:00:00,000", "01:00:00.000"),
        (3900.0, "01:05:00,000", "01:05:00.000"),
        (360_000.5, "100:00:00,500", "100:00:00.500"),
        (-0.02, "00:00:00,000", "00:00.000"),
    ],
)
def test_times_are_rounded_before_they_are_split(seconds: float, in_srt: str, in_vtt: str) -> None:
    assert timestamp(seconds, point=",", hours_always=True) == in_srt
    assert timestamp(seconds, point=".") == in_vtt


def test_hours_are_optional_only_in_webvtt() -> None:
    transcript = a_transcript(a_segment("x", 3599, 3600))
    assert srt(transcript).split("\n")[1] == "00:59:59,000 --> 01:00:00,000"
    assert vtt(transcript).split("\n")[2] == "59:59.000 --> 01:00:00.000"


def test_webvtt_has_all_hours_on_request() -> None:
    layout = SubtitleLayout(always_include_hours=True)
    assert vtt(ORIGIN, layout).split("\n")[2].startswith("00:00:")
    assert vtt(ORIGIN, replace(layout, max_line_width=10)).count(" --> 00:00:") == len(
        both(ORIGIN, SubtitleLayout(max_line_width=10))
    )
    assert srt(ORIGIN, layout) == srt(ORIGIN)


def test_cue_never_ends_before_its_start() -> None:
    backwards = Word(word=" x", start=2.0, end=1.5, probability=0.9)
    segment = a_segment(" x", 2.0, 1.5, words=(backwards,))
    for layout in (CUE_PER_SEGMENT, SubtitleLayout(max_line_count=1), HIGHLIGHT):
        ((start, end, _),) = both(a_transcript(segment), layout)
        assert (start, end) == (2000, 2000)


def test_empty_cues_are_left_out_of_the_numbering() -> None:
    transcript = a_transcript(
        a_segment(" one", 0, 1), a_segment("  \n", 1, 2), a_segment("", 2, 3), a_segment(" two", 3, 4)
    )
    assert srt(transcript) == "1\n00:00:00,000 --> 00:00:01,000\none\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n\n"
    assert vtt(transcript).count("-->") == 2


LAYOUT = st.builds(
    SubtitleLayout,
    max_line_width=st.none() | st.integers(min_value=1, max_value=30),
    max_line_count=st.none() | st.integers(min_value=1, max_value=4),
    highlight_words=st.booleans(),
)
#: No digits, which a lenient reader may take for the number of a cue, and no arrows.
WORD_TEXTS = st.builds(
    "{}{}".format, st.sampled_from([" ", " ", " ", ""]), st.text("ab.<&;é你-", min_size=1, max_size=9)
)


@st.composite
def speech(draw: st.DrawFn) -> Transcript:
    """Draw segments of consecutive words, some of them without their words."""
    now = 0
    segments = []
    for word_texts in draw(st.lists(st.lists(WORD_TEXTS, min_size=1, max_size=6), max_size=4)):
        words = []
        for text in word_texts:
            start = now + draw(st.integers(min_value=0, max_value=4000))
            now = start + draw(st.integers(min_value=0, max_value=2000))
            words.append(Word(word=text, start=start / 1000, end=now / 1000, probability=0.5))
        text = "".join(word_texts)
        kept = tuple(words) if draw(st.integers(min_value=0, max_value=9)) else ()
        segments.append(a_segment(text, words[0].start, words[-1].end, words=kept))
    return a_transcript(*segments)


def expected_words(transcript: Transcript) -> list[tuple[int, int, str]]:
    """Return the words, or segments without words, with their times in milliseconds."""
    return [
        (round(start * 1000), round(end * 1000), text.strip())
        for segment in transcript.segments
        for start, end, text in [(word.start, word.end, word.word) for word in segment.words]
        or [(segment.start, segment.end, segment.text)]
    ]


def _without_space(text: str) -> str:
    return "".join(text.split())


@unhurried
@given(speech(), LAYOUT)
def test_each_word_appears_once_and_in_order(transcript: Transcript, layout: SubtitleLayout) -> None:
    unmarked = replace(layout, highlight_words=False)
    together = "".join(segment.text for segment in transcript.segments)
    assert _without_space("".join(texts(both(transcript, unmarked)))) == _without_space(together)


@unhurried
@given(speech(), LAYOUT)
def test_each_word_is_underlined_once_at_its_time(transcript: Transcript, layout: SubtitleLayout) -> None:
    marked = both(transcript, replace(layout, highlight_words=True))
    underlined = [(start, end, re.findall("<u>(.*?)</u>", text)) for start, end, text in marked if "<u>" in text]
    assert underlined == [(start, end, [word]) for start, end, word in expected_words(transcript)]


@unhurried
@given(speech(), LAYOUT)
def test_highlighting_does_not_change_the_lines(transcript: Transcript, layout: SubtitleLayout) -> None:
    plain = replace(layout, highlight_words=False, max_line_count=layout.max_line_count or 1000)
    marked = replace(plain, highlight_words=True)
    shown = groupby(_plain(text) for text in texts(both(transcript, marked)))
    assert [text for text, _ in shown] == [text for text, _ in groupby(texts(both(transcript, plain)))]


@unhurried
@given(speech(), LAYOUT)
def test_lines_and_cues_keep_their_limits(transcript: Transcript, layout: SubtitleLayout) -> None:
    single = {word for _, _, word in expected_words(transcript)}
    for text in texts(both(transcript, layout)):
        lines = _plain(text).split("\n")
        assert len(lines) <= (layout.max_line_count or len(lines))
        assert layout.max_line_width is not None or len(lines) == 1
        for line in lines:
            assert line == line.strip() != ""
            assert layout.max_line_width is None or display_width(line) <= layout.max_line_width or line in single


@unhurried
@given(speech(), LAYOUT)
def test_times_are_those_of_words_and_in_order(transcript: Transcript, layout: SubtitleLayout) -> None:
    cues = both(transcript, layout)
    words = expected_words(transcript)
    times = [time for start, end, _ in cues for time in (start, end)]
    assert all(before <= after for before, after in pairwise(times))
    assert set(times) <= {time for start, end, _ in words for time in (start, end)}
    assert times[:1] == [start for start, _, _ in words[:1]]
    assert times[-1:] == [end for _, end, _ in words[-1:]]


@unhurried
@given(speech(), LAYOUT)
def test_each_cue_is_one_segment_unless_lines_flow(transcript: Transcript, layout: SubtitleLayout) -> None:
    cues = both(transcript, layout)
    if layout.highlight_words or layout.flows_over_segments:
        return
    assert len(cues) == len(transcript.segments)
    for text, segment in zip(texts(cues), transcript.segments, strict=True):
        assert _without_space(text) == _without_space(segment.text)


_TIME = re.compile(r"(?:\d{2,}:)?[0-5]\d:[0-5]\d[,.]\d{3}")


@unhurried
@given(transcripts(), LAYOUT)
def test_cues_of_any_transcript_are_well_formed(transcript: Transcript, layout: SubtitleLayout) -> None:
    head, *in_vtt = vtt(transcript, layout).split("\n\n")
    in_srt = srt(transcript, layout).split("\n\n")
    assert head == "WEBVTT"
    assert in_vtt.pop() == in_srt.pop() == ""
    for number, (srt_cue, vtt_cue) in enumerate(zip(in_srt, in_vtt, strict=True), start=1):
        index, srt_times, *srt_lines = srt_cue.split("\n")
        vtt_times, *vtt_lines = vtt_cue.split("\n")
        assert index == str(number)
        assert all(_TIME.fullmatch(time) for times in (srt_times, vtt_times) for time in times.split(" --> "))
        assert all("-->" not in line and line == line.strip() for line in srt_lines + vtt_lines)
        assert [html.unescape(line) for line in vtt_lines] == srt_lines
        start, end = (srt_library.srt_timestamp_to_timedelta(time) for time in srt_times.split(" --> "))
        assert start <= end


@unhurried
@given(transcripts())
def test_default_layout_round_trips_the_segments(transcript: Transcript) -> None:
    blocks = srt(transcript).split("\n\n")[:-1]
    spoken_segments = [segment for segment in transcript.segments if segment.text.split()]
    for block, segment in zip(blocks, spoken_segments, strict=True):
        _, times, text = block.split("\n")
        for time, seconds in zip(times.split(" --> "), (segment.start, segment.end), strict=True):
            read = srt_library.srt_timestamp_to_timedelta(time).total_seconds()
            assert read == pytest.approx(seconds, abs=0.000_51)
        assert text == re.sub("-{2,}>", "->", " ".join(segment.text.split()))


def as_transcript(reference: dict[str, Any]) -> Transcript:
    """Convert a reference to the model's form, with a space before each word."""
    segments = [
        a_segment(
            f" {segment['text']}",
            segment["start"],
            segment["end"],
            words=tuple(
                Word(word=f" {word['word']}", start=word["start"], end=word["end"], probability=1.0)
                for word in segment["words"]
            ),
            channel=segment.get("channel"),
        )
        for segment in reference["segments"]
    ]
    return a_transcript(*segments)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_subtitles_of_all_samples_are_read_by_other_programs(
    references: dict[str, dict[str, Any]], layout: SubtitleLayout
) -> None:
    for reference in references.values():
        transcript = as_transcript(reference)
        cues = both(transcript, layout)
        if layout.highlight_words:
            shown = [word for text in texts(cues) for word in re.findall("<u>(.*?)</u>", text)]
        else:
            shown = " ".join(texts(cues)).split()
        assert shown == [word.word.strip() for word in transcript.words]
        assert all(len(_plain(text).split("\n")) <= (layout.max_line_count or 1000) for text in texts(cues))


def test_segments_of_all_samples_are_cues_by_default(references: dict[str, dict[str, Any]]) -> None:
    for reference in references.values():
        assert both(as_transcript(reference)) == [
            (round(segment["start"] * 1000), round(segment["end"] * 1000), segment["text"])
            for segment in reference["segments"]
        ]
