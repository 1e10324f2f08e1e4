"""Chinese is written in one script throughout a transcript."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.languages import chinese_script
from app.domain.transcript import Script, Segment, Word
from app.transcription.chinese_script import ChineseScript, convert, traditional_lead
from app.transcription.segments import Assembly

SIMPLIFIED = "测试完成后,你会发现测试中包含的两个模型"
TRADITIONAL = "通過清聽音頻,並比較每個列中的識別結果"


def segment(text: str, *, words: tuple[str, ...] = ()) -> Segment:
    return Segment(
        id=0,
        seek=0,
        start=0.0,
        end=1.0,
        text=text,
        tokens=(1, 2),
        temperature=0.0,
        avg_logprob=-0.1,
        compression_ratio=1.0,
        no_speech_prob=0.0,
        words=tuple(
            Word(word=word, start=index / 10, end=(index + 1) / 10, probability=0.9) for index, word in enumerate(words)
        ),
    )


def texts(script: ChineseScript, *texts: str) -> list[str]:
    return [script.unify(segment(text)).text for text in texts]


def test_later_segments_follow_the_script_of_the_first() -> None:
    assert texts(ChineseScript(), SIMPLIFIED, TRADITIONAL) == [SIMPLIFIED, "通过清听音频,并比较每个列中的识别结果"]
    assert texts(ChineseScript(), TRADITIONAL, SIMPLIFIED) == [TRADITIONAL, "測試完成後,你會發現測試中包含的兩個模型"]


def test_a_few_characters_do_not_decide_the_script() -> None:
    assert texts(ChineseScript(), "謝謝", SIMPLIFIED, "謝謝") == ["謝謝", SIMPLIFIED, "谢谢"]


def test_the_script_of_the_prompt_decides() -> None:
    assert texts(ChineseScript(prompt="以下是普通話。"), SIMPLIFIED[:4]) == ["測試完成"]
    assert texts(ChineseScript(prompt="Whisper"), TRADITIONAL, SIMPLIFIED[:4]) == [TRADITIONAL, "測試完成"]


def test_the_requested_script_decides_before_the_prompt() -> None:
    assert texts(ChineseScript(Script.SIMPLIFIED, prompt="以下是普通話。"), TRADITIONAL[:4]) == ["通过清听"]


def test_words_are_converted_with_their_segment() -> None:
    spoken = segment("头发和发展", words=("头", "发", "和", "发展"))
    unified = ChineseScript(Script.TRADITIONAL).unify(spoken)
    assert unified.text == "頭髮和發展"
    assert [word.word for word in unified.words] == ["頭", "髮", "和", "發展"]
    assert unified == replace(spoken, text=unified.text, words=unified.words), (
        "nothing but the text and the words changes"
    )
    assert [(word.start, word.end) for word in unified.words] == [(word.start, word.end) for word in spoken.words]


def test_the_script_is_that_of_the_beginning_whichever_window_is_done_first() -> None:
    assembly = Assembly(1)
    assembly.add_window(0, 0, start=0)
    assembly.add_window(0, 1, start=16_000)
    assembly.finish_window(0, 1, [replace(segment(TRADITIONAL), start=1.5, end=2.0)], is_chinese=True)
    assembly.finish_window(0, 0, [segment(SIMPLIFIED)], is_chinese=True)
    assert [unified.text for unified in assembly.take_all()] == [SIMPLIFIED, convert(TRADITIONAL, Script.SIMPLIFIED)]


def test_other_languages_keep_their_characters() -> None:
    assembly = Assembly(1, script=Script.SIMPLIFIED)
    assembly.add_window(0, 0, start=0)
    assembly.finish_window(0, 0, [segment("検査と品質を視覚的に")])
    assert [unified.text for unified in assembly.take_all()] == ["検査と品質を視覚的に"]


def test_replacements_are_found_in_the_script_of_the_transcript() -> None:
    assembly = Assembly(1, script=Script.TRADITIONAL, replacements=[("發展", "進步")])
    assembly.add_window(0, 0, start=0)
    assembly.finish_window(0, 0, [segment("头发和发展")], is_chinese=True)
    assert [unified.text for unified in assembly.take_all()] == ["頭髮和進步"]


def test_text_without_chinese_has_no_script() -> None:
    assert traditional_lead("Hello, 2026") == 0
    assert convert("Hello, 2026", Script.TRADITIONAL) == "Hello, 2026"


@pytest.mark.parametrize(
    ("language", "script"),
    [
        ("zh", None),
        ("chinese", None),
        ("en-SG", Script.SIMPLIFIED),
        ("zh-CN", Script.SIMPLIFIED),
        ("zh_TW", Script.TRADITIONAL),
        ("yue-HK", Script.TRADITIONAL),
        ("ZH-Hans-HK", Script.SIMPLIFIED),
        ("zh-Hant", Script.TRADITIONAL),
    ],
)
def test_subtags_of_a_language_name_its_script(language: str, script: Script | None) -> None:
    assert chinese_script(language) is script
