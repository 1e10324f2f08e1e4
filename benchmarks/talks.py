"""Conversations built from recordings of single speakers, so that the turns are known.

The clips of a speaker are in a folder of their own, such as those of LibriSpeech. Turns of one to a dozen seconds
follow each other with short gaps; some overlap with the one before. In pauses of 0.3 s in a clip, nobody speaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from faster_whisper.vad import VadOptions, get_speech_timestamps

from app.domain.transcript import Turn

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Audio = npt.NDArray[np.float32]

RATE = 16_000
_SPEECH = VadOptions(threshold=0.5, min_silence_duration_ms=300, speech_pad_ms=40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The kind of a conversation: its length and turns in seconds, the share of turns that overlap, the noise in dB."""

    speakers: int
    seconds: float
    turns: tuple[float, float] = (1.0, 12.0)
    overlap: float = 0.1
    noise_db: float = 35.0
    telephone: bool = False


class Clips:
    """The recordings of the speakers in a folder, by speaker."""

    def __init__(self, folder: Path) -> None:
        self._folders = sorted(path for path in folder.iterdir() if path.is_dir())
        self._voices: dict[str, Audio] = {}

    @property
    def speakers(self) -> list[str]:
        return [path.name for path in self._folders]

    def voice(self, speaker: str) -> Audio:
        """Return all recordings of a speaker, one after the other."""
        if speaker not in self._voices:
            folder = next(path for path in self._folders if path.name == speaker)
            self._voices[speaker] = np.concatenate([read(path) for path in sorted(folder.iterdir())])
        return self._voices[speaker]


def read(path: Path) -> Audio:
    """Return the samples of a recording at 16 kHz, one channel, from -1 to 1."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(str(path)) as container:
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32) / 32768.0


def build(clips: Clips, recipe: Recipe, *, seed: int) -> tuple[npt.NDArray[np.int16], list[Turn]]:
    """Return the samples of a conversation, and its turns."""
    random = np.random.default_rng(seed)
    speakers = [str(name) for name in random.choice(clips.speakers, recipe.speakers, replace=False)]
    shares = random.dirichlet(np.full(recipe.speakers, 4.0))
    gains = 10 ** (random.uniform(-0.15, 0.15, recipe.speakers))
    positions = [0] * recipe.speakers
    audio = np.zeros(round((recipe.seconds + 60) * RATE), np.float32)
    turns: list[Turn] = []
    time, last = RATE // 2, -1
    while time < recipe.seconds * RATE:
        likely = np.where(np.arange(recipe.speakers) == last, 0.0 if recipe.speakers > 1 else 1.0, shares)
        speaker = int(random.choice(recipe.speakers, p=likely / likely.sum()))
        voice = clips.voice(speakers[speaker])
        seconds = random.uniform(*recipe.turns) if random.random() > 0.3 else random.uniform(0.6, 2.0)
        samples = min(round(seconds * RATE), len(voice))
        start = positions[speaker] if positions[speaker] + samples <= len(voice) else 0
        positions[speaker] = start + samples
        clip = voice[start : start + samples]
        if last >= 0 and random.random() < recipe.overlap:
            time = max(0, time - round(random.uniform(0.3, 1.5) * RATE))
        audio[time : time + samples] += clip * gains[speaker]
        turns += _turns(clip, time, speakers[speaker])
        time += samples + round(random.uniform(0.1, 1.2) * RATE)
        last = speaker
    return _finished(audio[:time], recipe, random), sorted(turns, key=lambda turn: turn.start)


def _turns(clip: Audio, offset: int, speaker: str) -> list[Turn]:
    loud: Any = clip / max(float(np.abs(clip).max()), 1e-3) * 0.5
    return [
        Turn(start=(offset + span["start"]) / RATE, end=(offset + span["end"]) / RATE, speaker=speaker)
        for span in get_speech_timestamps(loud, _SPEECH)
        if span["end"] - span["start"] > RATE // 10
    ]


def _finished(audio: Audio, recipe: Recipe, random: np.random.Generator) -> npt.NDArray[np.int16]:
    level = float(np.sqrt((audio**2).mean()))
    audio = audio + random.standard_normal(len(audio)).astype(np.float32) * level * 10 ** (-recipe.noise_db / 20)
    if recipe.telephone:
        audio = _telephone(audio)
    samples: npt.NDArray[np.int16] = np.rint(audio / np.abs(audio).max() * 0.7 * 32767).astype(np.int16)
    return samples


def _telephone(audio: Audio) -> Audio:
    """Return what a telephone makes of audio: 300 to 3,400 Hz at 8 kHz, in µ-law."""
    spectrum = np.fft.rfft(audio)
    hertz = np.fft.rfftfreq(len(audio), 1 / RATE)
    spectrum[(hertz < 300) | (hertz > 3400)] = 0
    narrow = np.fft.irfft(spectrum, len(audio))[::2]
    narrow /= np.abs(narrow).max()
    coded = np.rint(np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256) * 127) / 127
    decoded = np.sign(coded) * (256 ** np.abs(coded) - 1) / 255
    padded = np.zeros(len(narrow) + 1, complex)  # twice the rate, with nothing above 4 kHz
    padded[: len(narrow) // 2 + 1] = np.fft.rfft(decoded)
    return np.fft.irfft(padded, 2 * len(narrow)).astype(np.float32)
