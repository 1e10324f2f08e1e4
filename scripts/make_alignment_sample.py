"""Make the speech with known word times that shows how early or late a model's alignment is.

It consists of three recordings in ``samples/``, whose speech synthesizers reported the times of the words.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from faster_whisper.audio import decode_audio

SAMPLES: Final = Path(__file__).parents[1] / "samples"
FOLDER: Final = Path(__file__).parents[1] / "app" / "transcription" / "alignment_sample"
NAMES: Final = ("numbers.mp3", "two_speakers_stereo.flac", "colours.webm")
SAMPLE_RATE: Final = 16_000
BIT_RATE: Final = 24_000


def main() -> None:
    """Write the audio and the words with their starts and ends in seconds."""
    references = {entry["file"]: entry for entry in json.loads((SAMPLES / "references.json").read_text())}
    parts: list[Any] = []
    words: list[tuple[str, float, float]] = []
    for name in NAMES:
        before = sum(map(len, parts)) / SAMPLE_RATE
        segments = references[name]["segments"]
        words += [
            (word["word"], round(before + word["start"], 3), round(before + word["end"], 3))
            for segment in segments
            for word in segment["words"]
        ]
        parts.append(decode_audio(str(SAMPLES / name)))
    FOLDER.mkdir(exist_ok=True)
    write_opus(FOLDER / "speech.ogg", (np.concatenate(parts) * 32767).astype(np.int16))
    (FOLDER / "words.json").write_text("[\n" + ",\n".join(map(json.dumps, words)) + "\n]\n")


def write_opus(path: Path, samples: np.ndarray[Any, Any]) -> None:
    """Encode samples (16 kHz, s16)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono", bit_rate=BIT_RATE)
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux([*stream.encode(frame), *stream.encode(None)])


if __name__ == "__main__":
    main()
