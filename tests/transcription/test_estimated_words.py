"""Words whose times a device can't measure: they share the time of their phrase, and a warning says so."""

from __future__ import annotations

import copy
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from app.domain.errors import TranscriptionFailed
from app.domain.transcript import Task, TranscriptionOptions
from app.transcription.accepted_decoding import AcceptedDecoding
from app.transcription.admission import FrontEnd
from app.transcription.engine import WhisperTranscriber
from app.transcription.loading import ensure_alignment
from app.transcription.slots import Slots
from app.transcription.transcriber import Listener
from app.transcription.vad import Span
from app.transcription.window import Window
from app.transcription.word_times import AlignedToken, are_usable, spread
from tests.transcription.test_word_times import word

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.domain.transcript import Transcript
    from app.transcription.decoding import Decoder
    from app.transcription.whisper import WhisperModel

TEXT = "hello this is a test the job is complete now"


class AlignsOtherwise:
    """CTranslate2's model with another ``align``."""

    def __init__(self, model: Any, align: Callable[..., Any]) -> None:
        self._model = model
        self.align = align

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def aligning(model: WhisperModel, align: Callable[..., Any]) -> WhisperModel:
    other = copy.copy(model)
    other._model = other._aligner = AlignsOtherwise(model._model, align)
    return other


def fails(*_: Any) -> Any:
    raise RuntimeError("CUDA failed with error no kernel image is available for execution on the device")


def at_one_time(position: int) -> Callable[..., Any]:
    """Return an ``align`` that puts every token at one position, as float16 does with the bundled model."""

    def align(_encoded: Any, _start: Any, texts: Sequence[Sequence[int]], _frames: Any) -> list[Any]:
        return [
            SimpleNamespace(
                alignments=[(token, position) for token in range(len(text) + 1)], text_token_probs=[0.5] * len(text)
            )
            for text in texts
        ]

    return align


async def transcribe(model: WhisperModel, decoder: Decoder, audio: Path, folder: Path, **options: Any) -> Transcript:
    source = Path(shutil.copy(audio, folder / "audio"))
    transcriber = WhisperTranscriber(
        [model],
        front_end=FrontEnd(decoder, slots=1),
        slots=Slots(1),
        batch_size=8,
        on_death=lambda cause: pytest.fail(str(cause)),
    )
    try:
        return await transcriber.transcribe(source, TranscriptionOptions(**options), listener=Listener())
    finally:
        await transcriber.close()


@pytest.mark.anyio
@pytest.mark.parametrize("align", [fails, at_one_time(-1), at_one_time(0), at_one_time(7)])
async def test_words_that_cannot_be_aligned_share_their_phrase(
    align: Callable[..., Any], model: WhisperModel, decoder: Decoder, samples: Path, tmp_path: Path
) -> None:
    transcript = await transcribe(
        aligning(model, align), decoder, samples / "hello.wav", tmp_path, word_timestamps=True
    )
    assert transcript.text == TEXT
    (warning,) = transcript.warnings
    assert warning.startswith("The times of some words are estimated")
    for segment in transcript.segments:
        assert "".join(word.word for word in segment.words) == segment.text
        assert (segment.words[0].start, segment.words[-1].end) == (segment.start, segment.end)
        assert all(0 < word.end - word.start < 2 for word in segment.words)
        assert all(first.end == second.start for first, second in pairwise(segment.words))
        assert all(0 < word.probability < 1 for word in segment.words)


@pytest.mark.anyio
async def test_measured_words_have_no_warning(
    model: WhisperModel, decoder: Decoder, samples: Path, tmp_path: Path
) -> None:
    transcript = await transcribe(model, decoder, samples / "hello.wav", tmp_path, word_timestamps=True)
    assert (transcript.text, transcript.warnings) == (TEXT, ())


@pytest.mark.anyio
async def test_log_probabilities_are_never_estimated(
    model: WhisperModel, decoder: Decoder, samples: Path, tmp_path: Path
) -> None:
    with pytest.raises(TranscriptionFailed, match="no kernel image"):
        await transcribe(aligning(model, fails), decoder, samples / "hello.wav", tmp_path, token_logprobs=True)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_window_of_few_frames_is_decoded_with_words(frames: int, model: WhisperModel) -> None:
    """CTranslate2's ``align`` would divide by zero with one frame, and end the process."""
    window = Window(
        channel=0,
        number=0,
        spans=(Span(0, 160 * frames),),
        features=np.zeros((80, frames), np.float32),
        task=Task.TRANSCRIBE,
        beam_size=5,
        temperatures=(1.0,),  # the last one is accepted, whatever it says
        word_timestamps=True,
        language="en",
    )
    for _ in range(5):
        (outcome,) = model.decode([window])
        assert isinstance(outcome, AcceptedDecoding)
        assert all(0 <= word.start <= word.end <= frames / 100 for part in outcome.segments() for word in part.words)


@pytest.mark.parametrize(
    ("starts", "usable"),
    [
        ((0.0, 0.2, 0.4), True),
        ((0.0, 0.0, 0.4), True),
        ((0.3, 0.3), True),
        ((0.0, 0.0, 0.0), False),
        ((-0.02, -0.02, -0.02), False),
        ((0.0, float("nan"), 0.4), False),
        ((0.0, float("inf"), 0.4), False),
    ],
)
def test_alignment_without_times_is_not_usable(starts: tuple[float, ...], *, usable: bool) -> None:
    assert are_usable([AlignedToken(start, 0.5) for start in starts]) is usable


def test_time_is_shared_by_letters() -> None:
    times = [(part.start, part.end) for part in spread([word(" a", 9, 9), word(" cat", 9, 9)], 1.0, 2.0)]
    assert times == [(1.0, 1.25), (1.25, 2.0)]
    assert spread([], 1.0, 2.0) == []


@pytest.mark.anyio
@pytest.mark.parametrize("align", [fails, at_one_time(-1), at_one_time(0), at_one_time(7)])
async def test_cpu_aligns_for_a_device_that_cannot(
    align: Callable[..., Any],
    model: WhisperModel,
    decoder: Decoder,
    samples: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = aligning(model, align)
    ensure_alignment([broken, broken], lambda: SimpleNamespace(model=model._model))
    transcript = await transcribe(broken, decoder, samples / "hello.wav", tmp_path, word_timestamps=True)
    assert transcript == await transcribe(model, decoder, samples / "hello.wav", tmp_path, word_timestamps=True)
    (message,) = caplog.messages
    assert message.startswith("⚠️ The GPU can't align words with audio (")


def test_device_that_aligns_is_left_alone(model: WhisperModel) -> None:
    ensure_alignment([model], lambda: pytest.fail("nothing is to be loaded"))
    assert model.alignment_problem() is None


def test_device_without_memory_to_align_is_not_taken_for_one_that_cannot(model: WhisperModel) -> None:
    def run_out(*_: Any) -> Any:
        raise RuntimeError("CUDA failed with error out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        ensure_alignment([aligning(model, run_out)], lambda: pytest.fail("nothing is to be loaded"))
