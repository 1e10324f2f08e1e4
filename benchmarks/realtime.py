"""Measure live transcription: recordings are streamed at the pace at which they were spoken.

    python -m benchmarks.realtime MODEL FILE... [--sessions 1 8] [--seconds 600 60] [--references manifest.jsonl]

The files follow each other with a second of silence between them. The service transcribes the same audio at once, with
word times, and each word of the live text is compared with that: a word's delay is the time from its end in the audio
to the delta that shows it. Delays include the error of the word times, 0.07 s in the mean. Every session streams the
same audio, a moment apart. The references are JSON lines with the ``path`` of a recording and its ``reference``;
without them the text of the file is the reference. It writes nothing; results go into ``benchmarks/RESULTS.md`` by
hand.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import statistics
import sys
import time
import wave
from collections import defaultdict
from dataclasses import astuple, dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import av
import numpy as np
from websockets.asyncio.client import connect

from benchmarks.serving import service_with_pid
from benchmarks.word_errors import WordErrors, beginning_said, references, word_errors, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx
    import numpy.typing as npt

RATE: Final = 24_000
_PIECE_SECONDS: Final = 0.1
_GAP_SECONDS: Final = 1.0
#: The silence at the end, so that the last utterance ends.
_END_SECONDS: Final = 1.5
_TRANSCRIPTION: Final = "conversation.item.input_audio_transcription"
_COLUMNS: Final = (
    "seconds",
    "sessions",
    "words",
    "shown by deltas",
    "delay of a word, median, p95",
    "final text after the pause, median, p95",
    "errors of the file % (substituted, inserted, deleted)",
    "errors live",
    "items that differ from their deltas",
    "cores of each session",
)
_MARKS: Final = " .,;:!?\"'“”‘’…()[]-–—"


@dataclass(slots=True)
class Stream:
    """The events of one session with the seconds since its first sample was sent."""

    deltas: list[tuple[float, str]] = field(default_factory=list)
    stopped: dict[str, float] = field(default_factory=dict)
    finals: dict[str, tuple[float, str]] = field(default_factory=dict)
    shown: defaultdict[str, str] = field(default_factory=lambda: defaultdict(str))

    @property
    def text(self) -> str:
        """The final texts."""
        return " ".join(text for _, text in self.finals.values())

    @property
    def words(self) -> list[tuple[float, str]]:
        """The words of the deltas, each with the time at which its last letter was shown."""
        letters = [(at, letter) for at, text in self.deltas for letter in text]
        words: list[tuple[float, str]] = []
        for at, letter in letters:
            if letter.isspace() or not words:
                words.append((at, ""))
            words[-1] = (at if letter.isalnum() else words[-1][0], words[-1][1] + letter)
        return [(at, _plain(word)) for at, word in words if _plain(word)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.realtime", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="the value of WHISPER_MODEL")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="recordings of speech")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1], help="numbers of sessions at once (default 1)")
    parser.add_argument(
        "--seconds",
        type=float,
        nargs="+",
        default=[120.0],
        help="the length of the audio, for each number (default 120)",
    )
    parser.add_argument("--references", type=Path, help="JSON lines with a path and a reference for each recording")
    arguments = parser.parse_args()
    lengths = arguments.seconds * (len(arguments.sessions) if len(arguments.seconds) == 1 else 1)
    most = str(max(arguments.sessions))
    said = words(references(arguments.references, arguments.files)) if arguments.references else []
    with service_with_pid(WHISPER_MODEL=arguments.model, REALTIME_MAX_SESSIONS=most) as (client, pid):
        print(f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|")
        for sessions, seconds in zip(arguments.sessions, lengths, strict=True):
            audio = recordings_in_a_row(arguments.files, seconds)
            expected = _at_once(client, audio)
            before = _core_seconds(pid)
            streams = asyncio.run(_all(client, audio, sessions))
            cores = (_core_seconds(pid) - before) / sessions / len(audio) * RATE
            print(f"| {len(audio) / RATE:.0f} {_row(expected, streams, said)} {cores:.2f} |", flush=True)
    return 0


def _row(expected: Sequence[dict[str, Any]], streams: Sequence[Stream], said: Sequence[str]) -> str:
    delays = [delay for stream in streams for delay in _delays(expected, stream)]
    finals = [seconds for stream in streams for seconds in _final_seconds(stream)]
    file = words(" ".join(word["word"] for word in expected))
    reference = beginning_said(said, file) if said else file
    errors = [word_errors(reference, words(stream.text)) for stream in streams]
    of_all = (
        round(statistics.mean(kind)) for kind in zip(*(map(int, astuple(of_one)) for of_one in errors), strict=True)
    )
    shown = len(delays) / len(streams) / len(expected)
    return (
        f"| {len(streams)} | {len(reference)} | {100 * shown:.0f} % | {_quantiles(delays)} | {_quantiles(finals)} "
        f"| {word_errors(reference, file)} | {WordErrors(*of_all)} | {100 * _changed_share(streams):.0f} % |"
    )


def _changed_share(streams: Sequence[Stream]) -> float:
    """Return the share of items whose deltas together have other words than the final text."""
    items = [(stream.shown[item], text) for stream in streams for item, (_, text) in stream.finals.items()]
    return sum(words(shown) != words(text) for shown, text in items) / max(1, len(items))


def _core_seconds(pid: int) -> float:
    """Return the time of a core that a process has used, without those that it started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _quantiles(seconds: Sequence[float]) -> str:
    p95 = statistics.quantiles(seconds, n=20, method="inclusive")[18] if len(seconds) > 1 else seconds[0]
    return f"{statistics.median(seconds):.2f}, {p95:.2f} s"


def _delays(expected: Sequence[dict[str, Any]], stream: Stream) -> list[float]:
    """Return the delay of each word of the deltas that the file has as well."""
    shown = stream.words
    matcher = SequenceMatcher(
        None, [_plain(word["word"]) for word in expected], [word for _, word in shown], autojunk=False
    )
    return [
        shown[block.b + index][0] - expected[block.a + index]["end"]
        for block in matcher.get_matching_blocks()
        for index in range(block.size)
    ]


def _final_seconds(stream: Stream) -> list[float]:
    """Return the seconds from each end of speech, after its silence, to the final text."""
    return [at - stream.stopped[item] for item, (at, _) in stream.finals.items()]


def _plain(word: str) -> str:
    return word.strip(_MARKS).casefold()


def recordings_in_a_row(files: Sequence[Path], seconds: float) -> npt.NDArray[np.int16]:
    """Return the speech of the files, s16 at 24 kHz, with silence between them and at the end."""
    parts: list[npt.NDArray[np.int16]] = []
    for file in files:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        with av.open(str(file)) as container:
            frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        parts += [*(frame.to_ndarray()[0] for frame in frames), np.zeros(round(_GAP_SECONDS * RATE), np.int16)]
    speech = np.concatenate(parts)[: round(seconds * RATE)]
    return np.concatenate([speech, np.zeros(round(_END_SECONDS * RATE), np.int16)])


def _at_once(client: httpx.Client, audio: npt.NDArray[np.int16]) -> list[dict[str, Any]]:
    """Return the words of the audio transcribed as a file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(RATE)
        target.writeframes(audio.tobytes())
    response = client.post(
        "/v1/audio/transcriptions",
        files={"file": ("audio.wav", file.getvalue())},
        data={"response_format": "verbose_json", "timestamp_granularities[]": "word"},
        timeout=3600,
    ).raise_for_status()
    words: list[dict[str, Any]] = response.json()["words"]
    return [word for word in words if _plain(word["word"])]


async def _all(client: httpx.Client, audio: npt.NDArray[np.int16], sessions: int) -> list[Stream]:
    address = f"ws://127.0.0.1:{client.base_url.port}/v1/realtime?intent=transcription"
    pause = _PIECE_SECONDS * 3.7 / sessions
    return list(await asyncio.gather(*(_stream(address, audio, number * pause) for number in range(sessions))))


async def _stream(address: str, audio: npt.NDArray[np.int16], pause: float) -> Stream:
    """Send the audio as fast as it was spoken, and collect the events."""
    await asyncio.sleep(pause)
    stream = Stream()
    async with connect(address, compression=None) as socket:
        began = time.monotonic()
        sending = asyncio.create_task(_send(socket, audio, began))
        committed = completed = 0
        has_ended = False
        while not has_ended or completed < committed:
            event = json.loads(await socket.recv())
            at = time.monotonic() - began
            match event["type"]:
                case "session.updated":  # it answers what is sent after the audio
                    has_ended = True
                case "input_audio_buffer.committed":
                    committed += 1
                    stream.stopped[event["item_id"]] = at
                case kind if kind == f"{_TRANSCRIPTION}.delta":
                    stream.deltas.append((at, event["delta"]))
                    stream.shown[event["item_id"]] += event["delta"]
                case kind if kind == f"{_TRANSCRIPTION}.completed":
                    completed += 1
                    stream.finals[event["item_id"]] = (at, event["transcript"])
                    stream.deltas.append((at, " "))
                case "error" | "conversation.item.input_audio_transcription.failed":
                    raise RuntimeError(event["error"]["message"])
        await sending
    return stream


async def _send(socket: Any, audio: npt.NDArray[np.int16], began: float) -> None:
    size = round(_PIECE_SECONDS * RATE)
    for number, start in enumerate(range(0, len(audio), size), 1):
        await asyncio.sleep(max(0.0, began + number * _PIECE_SECONDS - time.monotonic()))
        piece = base64.b64encode(audio[start : start + size].tobytes()).decode()
        await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": piece}))
    await socket.send(json.dumps({"type": "session.update", "session": {"type": "transcription"}}))


if __name__ == "__main__":
    sys.exit(main())
