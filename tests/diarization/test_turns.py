"""From what was heard to turns, with local speakers and embeddings that are made up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from app.diarization.chunks import HOP_FRAMES, HOP_SAMPLES, frame_edge, own_frames
from app.diarization.clustering import speaker_centroids
from app.diarization.conversation import Conversation
from app.diarization.heard import Heard
from app.diarization.models import CHUNK_FRAMES, EMBEDDING_SIZE, SLOTS, as_unit
from app.diarization.names import known_speakers, speaker_names
from app.diarization.turns import speaker_turns
from app.diarization.voice_windows import runs, voice_windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

VOICES = as_unit(np.random.default_rng(5).standard_normal((4, EMBEDDING_SIZE)).astype(np.float32))


def heard_from(schedule: Sequence[tuple[int, ...]]) -> Heard:
    """Return what is heard if the voices of each item of the schedule speak for the length of a hop."""
    heard = Heard()
    for chunk in range(max(1, len(schedule) - 1)):
        speakers = sorted({speaker for item in schedule[chunk : chunk + 2] for speaker in item})
        activity = np.zeros((CHUNK_FRAMES, SLOTS), np.bool_)
        for part, item in enumerate(schedule[chunk : chunk + 2]):
            for speaker in item:
                activity[part * HOP_FRAMES : (part + 1) * HOP_FRAMES, speakers.index(speaker)] = True
        own = own_frames(is_first=chunk == 0, is_last=chunk == len(schedule) - 2)
        windows = list(voice_windows(activity, own))
        heard.add(activity, windows, VOICES[[speakers[window.slot] for window in windows]])
    return heard


def seconds(hops: float) -> float:
    return hops * HOP_SAMPLES / 16_000


def test_each_speaker_has_a_turn() -> None:
    turns = speaker_turns(heard_from([(0,), (1,), (0,)]), VOICES[:2])
    assert [turn.speaker for turn in turns] == [0, 1, 0]
    assert [turn.end for turn in turns] == pytest.approx([seconds(1), seconds(2), seconds(3)], abs=0.1)


def test_overlap_belongs_to_both_speakers() -> None:
    turns = speaker_turns(heard_from([(0,), (0, 1), (1,)]), VOICES[:2])
    assert [turn.speaker for turn in turns] == [0, 1]
    assert turns[0].end == pytest.approx(seconds(2), abs=0.1)
    assert turns[1].start == pytest.approx(seconds(1), abs=0.1)


def test_turn_goes_on_across_blocks() -> None:
    """Turns are decided 60 chunks at a time."""
    (first, second) = speaker_turns(heard_from([(0,)] * 150 + [(1,)] * 3), VOICES[:2])
    assert (first.speaker, second.speaker) == (0, 1)
    assert first.end == pytest.approx(seconds(150), abs=0.1)


def test_blocks_decide_like_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(6)
    schedule = [tuple(random.choice(3, random.integers(0, 3), replace=False).tolist()) for _ in range(200)]
    heard = heard_from(schedule)
    in_blocks = speaker_turns(heard, VOICES[:3])
    monkeypatch.setattr("app.diarization.turns._BLOCK_CHUNKS", 1000)
    assert speaker_turns(heard, VOICES[:3]) == in_blocks


def test_speech_too_short_for_a_voice_is_of_one_speaker() -> None:
    heard = Heard()
    activity = np.zeros((CHUNK_FRAMES, SLOTS), np.bool_)
    activity[100:120, 0] = True  # 0.34 s
    heard.add(activity, [], np.zeros((0, EMBEDDING_SIZE), np.float32))
    (turn,) = speaker_turns(heard, np.zeros((0, EMBEDDING_SIZE), np.float32))
    assert (turn.start, turn.end) == (frame_edge(100) / 16_000, frame_edge(120) / 16_000)


def test_moment_is_no_turn() -> None:
    heard = Heard()
    activity = np.zeros((CHUNK_FRAMES, SLOTS), np.bool_)
    activity[100:110, 0] = True
    heard.add(activity, [], np.zeros((0, EMBEDDING_SIZE), np.float32))
    assert speaker_turns(heard, np.zeros((0, EMBEDDING_SIZE), np.float32)) == []


def test_activity_is_kept_bit_by_bit() -> None:
    activity = np.random.default_rng(7).random((CHUNK_FRAMES, SLOTS)) < 0.5
    heard = Heard()
    heard.add(activity, [], np.zeros((0, EMBEDDING_SIZE), np.float32))
    assert np.array_equal(heard.activity(0), activity)
    assert heard.nbytes == 221


def test_hour_of_speech_takes_few_bytes() -> None:
    hops = round(3600 / seconds(1))
    heard = heard_from([(chunk // 3 % 3,) for chunk in range(hops)])
    assert len(heard.embeddings) > 3000
    assert heard.nbytes < 4_000_000


class _Deaf:
    """Models for which nobody speaks."""

    def segment(self, chunks: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        return np.zeros((len(chunks), CHUNK_FRAMES, SLOTS), np.bool_)

    def embed(self, spectrograms: Sequence[object]) -> npt.NDArray[np.float32]:
        return np.zeros((len(spectrograms), EMBEDDING_SIZE), np.float32)


def test_conversation_keeps_no_samples_that_it_has_heard() -> None:
    conversation = Conversation(_Deaf())  # type: ignore[arg-type]  # it has the two methods that are used
    for _ in range(100):
        conversation.hear(np.zeros(160_000, np.int16))
    assert conversation.nbytes < 100_000 + 2 * 160_000


def test_windows_leave_out_overlap_and_short_runs() -> None:
    activity = np.zeros((CHUNK_FRAMES, SLOTS), np.bool_)
    activity[0:200, 0] = True
    activity[150:300, 1] = True
    activity[400:410, 2] = True
    windows = list(voice_windows(activity, (0, CHUNK_FRAMES)))
    assert {window.slot for window in windows} == {0, 1}
    assert max(window.end for window in windows if window.slot == 0) == frame_edge(150)
    assert min(window.start for window in windows if window.slot == 1) == frame_edge(200)
    assert all(3_520 <= window.end - window.start <= 32_000 for window in windows)


def test_chunks_own_all_frames_once() -> None:
    chunks = [own_frames(is_first=chunk == 0, is_last=chunk == 9) for chunk in range(10)]
    owned = [frame + chunk * HOP_FRAMES for chunk, own in enumerate(chunks) for frame in range(*own)]
    assert owned == list(range(9 * HOP_FRAMES + CHUNK_FRAMES))


def test_runs_of_flags() -> None:
    assert runs(np.array([True, True, False, True])).tolist() == [[0, 2], [3, 4]]
    assert runs(np.zeros(3, np.bool_)).tolist() == []


def test_labels_follow_the_first_appearance() -> None:
    assert speaker_names([2, 0, 2, 1], {}) == {2: "A", 0: "B", 1: "C"}


def test_labels_avoid_known_names() -> None:
    assert speaker_names([0, 1, 2], {1: "A"}) == {0: "B", 1: "A", 2: "C"}


def test_known_voices_are_matched_one_to_one() -> None:
    both_like_first = as_unit(np.stack([VOICES[0], VOICES[0] + 0.5 * VOICES[1]]))
    assert known_speakers(both_like_first, {"Ann": VOICES[0], "Bob": VOICES[3]}) == {0: "Ann"}
    assert known_speakers(VOICES[:2], {}) == {}
    assert known_speakers(VOICES[:0], {"Ann": VOICES[0]}) == {}


def test_more_embeddings_are_heard_than_speakers_found() -> None:
    heard = heard_from([(0,), (1,), (0,), (1,)])
    assert len(speaker_centroids(heard.embeddings, heard.seconds)) == 2
