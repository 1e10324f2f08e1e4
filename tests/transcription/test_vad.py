"""Speech is found as faster-whisper finds it with the whole file in memory, and no window is longer than 30 s."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from faster_whisper.audio import decode_audio
from faster_whisper.vad import VadOptions, get_speech_timestamps, get_vad_model
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.transcript import SpeechDetection
from app.transcription.vad import (
    FRAME_SAMPLES,
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    ClearSpeech,
    GapFiller,
    PauseFinder,
    Span,
    SpanPadder,
    SpeechDetector,
    SpeechSegmenter,
    WindowFinder,
    WindowPacker,
    WindowSpan,
    as_float,
)
from tests.support.audio import SAMPLES, silence, sine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.support.audio import Samples

BLOCK: Final = 1024 * FRAME_SAMPLES
DEFAULT: Final = SpeechDetection()


@cache
def sample(name: str) -> Samples:
    decoded = np.asarray(decode_audio(str(SAMPLES / name)), np.float32)
    return (decoded * 32768).astype(np.int16)


@cache
def mixture(seed: int) -> Samples:
    """Return about 70 s of speech, silence, noise and tones in a random order, some of it very quiet."""
    random = np.random.default_rng(seed)
    parts: list[Samples] = []
    while sum(map(len, parts)) < 70 * SAMPLE_RATE:
        speech = sample(str(random.choice(["hello.wav", "numbers.mp3", "code.flac", "unseen_voice.wav"])))
        noise = (random.normal(0, 300, random.integers(100, 3 * SAMPLE_RATE))).astype(np.int16)
        quiet = (speech * random.uniform(0.02, 1)).astype(np.int16)
        begin = int(random.integers(0, len(speech) - 1000))
        parts += [
            [speech, quiet, speech[begin:], noise, silence(random.uniform(0, 5)), sine(0.3)][random.integers(6)],
        ]
    return np.concatenate(parts)


def expected(pcm: Samples, detection: SpeechDetection) -> list[Span]:
    """Return the speech that faster-whisper finds in the whole of the audio."""
    options = VadOptions(
        threshold=detection.threshold,
        neg_threshold=detection.end_threshold,
        speech_pad_ms=detection.padding_ms,
        min_silence_duration_ms=detection.min_silence_ms,
        max_speech_duration_s=30,
    )
    speech: list[dict[str, Any]] = get_speech_timestamps(as_float(pcm), options)
    return [Span(timestamps["start"], timestamps["end"]) for timestamps in speech]


def blocks(pcm: Samples, size: int = BLOCK) -> Iterator[Samples]:
    for start in range(0, len(pcm), size):
        yield pcm[start : start + size]


def probabilities(pcm: Samples) -> list[float]:
    detector = SpeechDetector()
    streamed = [probability for block in blocks(pcm) for probability in detector.feed(block)]
    return [*streamed, *detector.finish()]


def speech_spans(frames: Iterable[float], detection: SpeechDetection, *, total: int) -> list[Span]:
    padding = SAMPLE_RATE * detection.padding_ms // 1000
    segmenter = SpeechSegmenter(detection, max_samples=WINDOW_SAMPLES - FRAME_SAMPLES - 2 * padding)
    padder = SpanPadder(padding)
    spans = list(padder.add([*segmenter.add(frames), *segmenter.finish(total)]))
    return [*spans, *padder.finish(total)]


def windows_of(pcm: Samples, detection: SpeechDetection, *, only_speech: bool, size: int = BLOCK) -> list[WindowSpan]:
    finder = WindowFinder(detection, only_speech=only_speech)
    return [*(window for block in blocks(pcm, size) for window in finder.feed(block)), *finder.finish()]


def packed(spans: Iterable[Span]) -> list[WindowSpan]:
    return packed_pieces(WindowSpan((span,)) for span in spans)


def packed_with_gaps(spans: Iterable[Span], *, total: int) -> list[WindowSpan]:
    gap_filler = GapFiller()
    return packed_pieces([*gap_filler.add(spans), *gap_filler.finish(total)])


def packed_pieces(pieces: Iterable[WindowSpan]) -> list[WindowSpan]:
    packer = WindowPacker()
    return [*packer.add(pieces), *packer.finish()]


def speech_in(pcm: Samples, detection: SpeechDetection) -> list[Span]:
    return speech_spans(probabilities(pcm), detection, total=len(pcm))


def check_windows(windows: list[WindowSpan], total: int) -> None:
    assert all(0 <= window.start < window.end <= total for window in windows)
    assert all(window.samples <= WINDOW_SAMPLES for window in windows)
    assert all(window.end <= following.start for window, following in pairwise(windows))


@pytest.mark.parametrize(
    "detection",
    [
        DEFAULT,
        SpeechDetection(padding_ms=0, min_silence_ms=0),
        SpeechDetection(threshold=0.2, padding_ms=1000, min_silence_ms=2000),
        SpeechDetection(threshold=0.05, padding_ms=200, min_silence_ms=30_000),
        SpeechDetection(threshold=0.7, end_threshold=0.05),
    ],
)
def test_speech_spans_are_those_of_faster_whisper(detection: SpeechDetection) -> None:
    for pcm in (sample("long.opus"), mixture(1)):
        assert speech_in(pcm, detection) == expected(pcm, detection)


@pytest.mark.parametrize("name", ["hello.wav", "phone_8k.wav", "report.m4a", "silence.wav", "two_speakers_stereo.flac"])
def test_speech_spans_of_short_samples_are_those_of_faster_whisper(name: str) -> None:
    assert speech_in(sample(name), DEFAULT) == expected(sample(name), DEFAULT)


@pytest.mark.parametrize(
    "length",
    [0, 1, 511, 512, 513, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 300],
)
def test_probabilities_do_not_depend_on_block_boundaries(length: int) -> None:
    pcm = np.tile(sample("numbers.mp3"), 10)[:length]
    padded = np.pad(as_float(pcm), (0, FRAME_SAMPLES - length % FRAME_SAMPLES))
    whole = np.asarray(get_vad_model()(padded)).ravel()
    streamed = np.array(probabilities(pcm))
    assert len(streamed) == length // FRAME_SAMPLES + 1
    # faster-whisper zeroes the end of the last frame, which may change its probability.
    np.testing.assert_allclose(streamed[:-1], whole[:-1], atol=1e-5)


@pytest.mark.parametrize("only_speech", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_windows_are_in_order_and_at_most_30_s_long(seed: int, *, only_speech: bool) -> None:
    pcm = mixture(seed)
    windows = windows_of(pcm, DEFAULT, only_speech=only_speech)
    check_windows(windows, len(pcm))
    assert len(windows) >= 2
    if not only_speech:
        assert sum(window.samples for window in windows) == len(pcm)


def test_every_word_of_a_sample_is_in_a_window() -> None:
    references = json.loads((SAMPLES / "references.json").read_text(encoding="utf-8"))
    (reference,) = (entry for entry in references if entry["file"] == "long.opus")
    windows = windows_of(sample("long.opus"), DEFAULT, only_speech=True)
    words = [word for segment in reference["segments"] for word in segment["words"]]
    assert len(words) > 50
    for word in words:
        start, end = round(word["start"] * SAMPLE_RATE), round(word["end"] * SAMPLE_RATE)
        assert any(window.start <= start and end <= window.end for window in windows), word


@pytest.mark.parametrize("seconds", [0.0, 0.01, 3.0, 70.0])
def test_silence_has_no_windows(seconds: float) -> None:
    assert windows_of(silence(seconds), DEFAULT, only_speech=True) == []


def test_silence_is_covered_when_silence_is_kept() -> None:
    pcm = silence(70.0)
    windows = windows_of(pcm, DEFAULT, only_speech=False)
    check_windows(windows, len(pcm))
    assert sum(window.samples for window in windows) == len(pcm)
    assert windows_of(silence(0), DEFAULT, only_speech=False) == []


# The tests below use made-up probabilities, because recordings for all these cases would be hard to find.

#: Probabilities, each for a number of frames; 938 frames are 30 s.
RUNS: Final = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([0.0, 0.005, 0.02, 0.34, 0.36, 0.49, 0.5, 0.51, 0.95, 1.0]), st.floats(0, 1)),
        st.one_of(st.integers(1, 8), st.integers(1, 1200)),
    ),
    min_size=1,
    max_size=10,
)
DETECTIONS: Final = st.builds(
    SpeechDetection,
    threshold=st.one_of(st.just(0.5), st.floats(0, 1)),
    padding_ms=st.one_of(st.just(400), st.integers(0, 5000)),
    min_silence_ms=st.one_of(st.sampled_from([0, 64, 500, 2000]), st.integers(0, 30_000)),
)
#: The number of samples in the last frame.
REST: Final = st.integers(0, FRAME_SAMPLES - 1)


def frames_of(runs: list[tuple[float, int]], rest: int) -> tuple[list[float], int]:
    frames = [probability for probability, count in runs for _ in range(count)]
    return frames, (len(frames) - 1) * FRAME_SAMPLES + rest


def expected_of(frames: list[float], detection: SpeechDetection, *, total: int) -> list[Span]:
    """Return the speech that faster-whisper finds given these probabilities, which replace those of its model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("faster_whisper.vad.get_vad_model", lambda: lambda _: np.array(frames))
        return expected(np.zeros(total, np.int16), detection)


@given(RUNS, DETECTIONS, REST)
@example([(0.005, 3)], SpeechDetection(threshold=0.0, min_silence_ms=0), 0)
@example([(0.9, 500), (0.1, 5), (0.9, 500), (0.1, 30), (0.9, 500)], DEFAULT, 100)
@example([(0.9, 2000)], DEFAULT, 0)
def test_segmentation_of_any_probabilities_matches_faster_whisper(
    runs: list[tuple[float, int]], detection: SpeechDetection, rest: int
) -> None:
    frames, total = frames_of(runs, rest)
    assert (speech_spans(frames, detection, total=total)) == expected_of(frames, detection, total=total)


@given(RUNS, DETECTIONS, REST)
def test_windows_hold_all_speech_and_fit_into_30_s(
    runs: list[tuple[float, int]], detection: SpeechDetection, rest: int
) -> None:
    frames, total = frames_of(runs, rest)
    spans = speech_spans(frames, detection, total=total)
    windows = packed(spans)
    check_windows(windows, total)
    held = [span for window in windows for span in window.spans]
    assert sum(span.samples for span in held) == sum(span.samples for span in spans)
    assert all(any(outer.start <= span.start and span.end <= outer.end for outer in held) for span in spans)
    assert all(window.samples + following.spans[0].samples > WINDOW_SAMPLES for window, following in pairwise(windows))


@given(RUNS, DETECTIONS, REST)
def test_windows_cover_everything_when_silence_is_kept(
    runs: list[tuple[float, int]], detection: SpeechDetection, rest: int
) -> None:
    frames, total = frames_of(runs, rest)
    windows = packed_with_gaps(speech_spans(frames, detection, total=total), total=total)
    check_windows(windows, total)
    assert [window.start for window in windows] == [0, *(window.end for window in windows[:-1])][: len(windows)]
    assert (windows[-1].end if windows else 0) == total


def test_speech_is_not_split_if_silence_can_be_split() -> None:
    frames, total = frames_of([(0.0, 312), (0.9, 780), (0.0, 312)], 0)  # 10 s of silence, 25 s of speech, 10 s
    (speech,) = speech_spans(frames, DEFAULT, total=total)
    windows = packed_with_gaps([speech], total=total)
    assert [window for window in windows if speech.start < window.end < speech.end] == []


def test_window_leaves_out_silence_between_its_spans() -> None:
    second = SAMPLE_RATE
    spans = [Span(0, 12 * second), Span(100 * second, 118 * second), Span(118 * second, 119 * second)]
    assert packed(spans) == [WindowSpan(tuple(spans[:2])), WindowSpan((spans[2],))]
    assert packed([spans[1], spans[2]]) == [WindowSpan((Span(100 * second, 119 * second),))]


def test_window_without_speech_says_so() -> None:
    second = SAMPLE_RATE
    windows = packed_with_gaps([Span(40 * second, 45 * second)], total=90 * second)
    assert [(window.start, window.end, window.has_speech) for window in windows] == [
        (0, 30 * second, False),
        (30 * second, 45 * second, True),
        (45 * second, 75 * second, False),
        (75 * second, 90 * second, False),
    ]


@pytest.mark.parametrize(
    ("probability", "frames", "kept"),
    [(0.6, 7, False), (0.6, 8, True), (0.79, 1, False), (0.81, 1, True), (0.99, 1, True)],
)
def test_short_speech_has_to_be_more_probable(probability: float, frames: int, *, kept: bool) -> None:
    clear_speech = ClearSpeech(DEFAULT)
    clear_speech.note([0.0] * 10)
    clear_speech.forget(before=None)
    clear_speech.note([0.0] * 5 + [probability] * frames + [0.0])
    clear_speech.forget(before=12 * FRAME_SAMPLES)
    span = Span(15 * FRAME_SAMPLES, (15 + frames) * FRAME_SAMPLES)
    assert list(clear_speech.only([span])) == [span] * kept


def pauses_of(frames: Iterable[float], window: WindowSpan, detection: SpeechDetection = DEFAULT) -> list[Span]:
    finder = PauseFinder(detection)
    finder.note(list(frames))
    return list(finder.take(window))


@given(RUNS, DETECTIONS, REST)
def test_pauses_of_a_window_are_its_long_runs_of_silence(
    runs: list[tuple[float, int]], detection: SpeechDetection, rest: int
) -> None:
    frames, total = frames_of(runs, rest)
    windows = packed_with_gaps(speech_spans(frames, detection, total=total), total=total)
    finder = PauseFinder(detection)
    finder.note(frames)
    end_threshold = max(detection.threshold - 0.15, 0.01)
    runs_of_frames = [list(run) for _, run in groupby(range(len(frames)), lambda frame: frames[frame] < end_threshold)]
    silences = [
        Span(run[0] * FRAME_SAMPLES, (run[-1] + 1) * FRAME_SAMPLES)
        for run in runs_of_frames
        if frames[run[0]] < end_threshold and len(run) > 3
    ]
    for window in windows:
        assert list(finder.take(window)) == [
            Span(max(silence.start, window.start), min(silence.end, window.end))
            for silence in silences
            if silence.start < window.end and window.start < silence.end
        ]


def test_pause_shorter_than_98_ms_is_none() -> None:
    window = WindowSpan((Span(0, 20 * FRAME_SAMPLES),))
    assert pauses_of([0.9, 0.1, 0.1, 0.1, 0.9], window) == []
    assert pauses_of([0.9, 0.1, 0.1, 0.1, 0.1, 0.9], window) == [Span(FRAME_SAMPLES, 5 * FRAME_SAMPLES)]
    assert pauses_of([0.9, 0.1, 0.1, 0.1, 0.1], window) == [Span(FRAME_SAMPLES, 5 * FRAME_SAMPLES)]


def test_pauses_before_a_window_are_forgotten() -> None:
    finder = PauseFinder(DEFAULT)
    finder.note([0.1] * 10 + [0.9] * 10 + [0.1] * 10 + [0.9])
    assert finder.take(WindowSpan((Span(12 * FRAME_SAMPLES, 25 * FRAME_SAMPLES),))) == (
        Span(20 * FRAME_SAMPLES, 25 * FRAME_SAMPLES),
    )
    assert finder.take(WindowSpan((Span(25 * FRAME_SAMPLES, 40 * FRAME_SAMPLES),))) == (
        Span(25 * FRAME_SAMPLES, 30 * FRAME_SAMPLES),
    )
    assert finder.take(WindowSpan((Span(0, FRAME_SAMPLES),))) == ()


def test_samples_become_floats_from_minus_one_to_one() -> None:
    pcm = np.array([-32768, 0, 16384, 32767], np.int16)
    assert as_float(pcm).tolist() == [-1.0, 0.0, 0.5, 32767 / 32768]
    assert as_float(pcm).dtype == np.float32


@pytest.mark.parametrize("only_speech", [True, False])
@pytest.mark.full(reason="takes more than a second")
def test_windows_do_not_depend_on_block_size(*, only_speech: bool) -> None:
    pcm = mixture(1)
    whole = windows_of(pcm, DEFAULT, only_speech=only_speech)
    assert windows_of(pcm, DEFAULT, only_speech=only_speech, size=7 * SAMPLE_RATE + 11) == whole


def test_speech_ends_below_its_own_threshold_and_has_a_least_length() -> None:
    frames = [0.9] * 20 + [0.3] * 40 + [0.9] * 3 + [0.0] * 40
    total = len(frames) * FRAME_SAMPLES
    kept = SpeechDetection(end_threshold=0.2, padding_ms=0)
    assert speech_spans(frames, kept, total=total) == [Span(0, 63 * FRAME_SAMPLES)]
    ended = SpeechDetection(padding_ms=0)
    assert speech_spans(frames, ended, total=total) == [
        Span(0, 20 * FRAME_SAMPLES),
        Span(60 * FRAME_SAMPLES, 63 * FRAME_SAMPLES),
    ]
    clear = ClearSpeech(SpeechDetection(min_speech_ms=200))
    clear.note(frames)
    assert list(clear.only(speech_spans(frames, ended, total=total))) == [Span(0, 20 * FRAME_SAMPLES)]


def test_window_of_several_languages_ends_at_a_pause_of_a_second() -> None:
    hello = sample("hello.wav")
    pcm = np.concatenate([hello, np.zeros(SAMPLE_RATE * 3 // 2, np.int16), hello])
    (both,) = windows_of(pcm, DEFAULT, only_speech=True)
    finder = WindowFinder(DEFAULT, only_speech=True, several_languages=True)
    alone = [*finder.feed(pcm), *finder.finish()]
    assert len(both.spans) > 2
    assert [window.spans for window in alone] == [(span,) for span in both.spans]


def test_window_of_several_languages_has_short_pauses() -> None:
    spans = [Span(0, 16_000), Span(24_000, 32_000), Span(41_600, 48_000)]
    packer = WindowPacker(9_600)
    pieces = [WindowSpan((span,)) for span in spans]
    windows = [*packer.add(pieces), *packer.finish()]
    assert [window.spans for window in windows] == [tuple(spans[:2]), tuple(spans[2:])]


def test_window_is_returned_long_before_the_recording_ends() -> None:
    pcm = np.tile(sample("hello.wav"), 20)
    finder = WindowFinder(DEFAULT, only_speech=True)
    fed = 0
    for block in blocks(pcm, SAMPLE_RATE):
        fed += len(block)
        if windows := finder.feed(block):
            break
    assert windows[0].end <= fed <= windows[0].end + 8 * SAMPLE_RATE


@pytest.mark.full(reason="takes more than a second")
def test_speech_detector_stores_no_telemetry(tmp_path: Path) -> None:
    """onnxruntime 1.32 creates a folder for an identifier and a queue of events when it is first used."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from app.transcription.vad import SpeechDetector\n"
        "import numpy as np\n"
        "SpeechDetector().feed(np.zeros(16000, np.int16)); time.sleep(1)"
    )
    environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": os.environ["PATH"]}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(root)], env=environment, cwd=tmp_path, check=True, timeout=240)
    assert list(tmp_path.rglob("*nnxruntime*")) == []
