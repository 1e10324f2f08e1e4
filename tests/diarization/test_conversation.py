"""A conversation on the bundled models: who speaks when."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from app.diarization.conversation import BLOCK_SAMPLES, Conversation
from app.diarization.references import voice_of
from app.domain.transcript import Turn
from benchmarks.diarization_error import diarization_error
from benchmarks.talks import read
from tests.conftest import SAMPLES
from tests.support.audio import RATE, silence, sine

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from app.diarization.models import VoiceModels

    Samples = npt.NDArray[np.int16]


def listen(models: VoiceModels, samples: Samples, block: int = BLOCK_SAMPLES) -> Conversation:
    conversation = Conversation(models)
    for start in range(0, len(samples), block):
        conversation.hear(samples[start : start + block])
    conversation.hear(samples[:0], is_last=True)
    return conversation


def error_rate(reference: list[Turn], turns: Iterable[Turn], samples: Samples, *, collar: float) -> float:
    return diarization_error(reference, list(turns), duration=len(samples) / RATE, collar=collar).rate


@pytest.fixture(scope="module")
def heard(models: VoiceModels, three_voices: Samples) -> Conversation:
    return listen(models, three_voices)


def test_two_synthesized_speakers_are_told_apart(models: VoiceModels) -> None:
    references = json.loads((SAMPLES / "references.json").read_text())
    segments = next(file for file in references if file["file"] == "two_speakers_stereo.flac")["segments"]
    reference = [Turn(start=part["start"], end=part["end"], speaker=part["voice"]) for part in segments]
    samples = np.rint(read(SAMPLES / "two_speakers_stereo.flac") * 32_768).astype(np.int16)
    turns = listen(models, samples).turns()
    assert [turn.speaker for turn in turns] == ["A", "B", "A", "B", "A", "B"]
    assert error_rate(reference, turns, samples, collar=0.25) < 0.02


def test_three_people_are_told_apart(
    heard: Conversation, three_voices: Samples, three_voices_turns: list[Turn]
) -> None:
    turns = heard.turns()
    assert [turn.speaker for turn in turns] == ["A", "B", "C", "A", "B", "C"]
    assert error_rate(three_voices_turns, turns, three_voices, collar=0.25) < 0.02
    assert error_rate(three_voices_turns, turns, three_voices, collar=0.0) < 0.15


def test_overlapping_speech_belongs_to_both(heard: Conversation) -> None:
    turns = heard.turns()
    assert 0.3 < turns[3].end - turns[4].start < 1.0


@pytest.mark.parametrize(
    "block", [12_345, pytest.param(1_000_000, marks=pytest.mark.full(reason="listens to the same recording again"))]
)
def test_turns_do_not_depend_on_the_blocks(
    models: VoiceModels, three_voices: Samples, heard: Conversation, block: int
) -> None:
    assert listen(models, three_voices, block).turns() == heard.turns()


def test_last_block_can_hold_samples(models: VoiceModels, three_voices: Samples, heard: Conversation) -> None:
    conversation = Conversation(models)
    conversation.hear(three_voices[:BLOCK_SAMPLES])
    conversation.hear(three_voices[BLOCK_SAMPLES:], is_last=True)
    assert conversation.turns() == heard.turns()


def test_at_most_the_given_number_of_speakers(heard: Conversation) -> None:
    assert {turn.speaker for turn in heard.turns(max_speakers=2)} == {"A", "B"}
    assert {turn.speaker for turn in heard.turns(max_speakers=1)} == {"A"}


def test_at_least_the_given_number_of_speakers(heard: Conversation) -> None:
    assert {turn.speaker for turn in heard.turns(min_speakers=4, max_speakers=4)} == {"A", "B", "C", "D"}


def test_known_voice_has_its_name(models: VoiceModels, heard: Conversation, three_voices: Samples) -> None:
    second_of_b = three_voices[int(12.6 * RATE) : int(14.2 * RATE)]
    turns = heard.turns(known={"Beatrice": voice_of(models, second_of_b)})
    assert [turn.speaker for turn in turns] == ["A", "Beatrice", "B", "A", "Beatrice", "B"]


def test_unheard_voice_names_nobody(models: VoiceModels, heard: Conversation) -> None:
    stranger = np.rint(read(SAMPLES / "unseen_voice.wav") * 32_768).astype(np.int16)
    assert heard.turns(known={"Stranger": voice_of(models, stranger)}) == heard.turns()


def test_reference_without_speech_is_refused(models: VoiceModels) -> None:
    with pytest.raises(ValueError, match="speech"):
        voice_of(models, silence(3.0))


@pytest.mark.parametrize("samples", [silence(0.0), silence(0.01), silence(12.0), sine(12.0)], ids=str)
def test_nobody_speaks_in_silence_or_a_tone(models: VoiceModels, samples: Samples) -> None:
    assert listen(models, samples).turns() == ()


def test_nobody_speaks_in_noise(models: VoiceModels) -> None:
    noise = np.random.default_rng(1).normal(0.0, 3000.0, 12 * RATE).astype(np.int16)
    assert listen(models, noise).turns() == ()


def test_turns_end_with_the_recording(models: VoiceModels, three_voices: Samples) -> None:
    samples = three_voices[: int(2.0 * RATE)]
    (turn,) = listen(models, samples).turns()
    assert turn.end == pytest.approx(2.0, abs=0.1)
    assert turn.end <= 2.0


@pytest.mark.long(reason="listens to five minutes")
def test_long_recording_is_joined_across_blocks(
    models: VoiceModels, three_voices: Samples, three_voices_turns: list[Turn]
) -> None:
    times, seconds = 36, len(three_voices) / RATE
    samples = np.tile(three_voices, times)
    reference = [
        Turn(start=turn.start + number * seconds, end=turn.end + number * seconds, speaker=turn.speaker)
        for number in range(times)
        for turn in three_voices_turns
    ]
    turns = listen(models, samples).turns()
    assert {turn.speaker for turn in turns} == {"A", "B", "C"}
    assert error_rate(reference, turns, samples, collar=0.25) < 0.03
