#!/usr/bin/env python3
"""Build the sample recordings and measure the demo model.

    python tools/demo_model/evaluate_demo_model.py samples
    python tools/demo_model/evaluate_demo_model.py measure

The first replaces the recordings in ``samples``, the second measures the model in
``app/transcription/demo_model`` and writes ``tools/demo_model/evaluation.json``.

Only sentences that training never saw are measured (the held-out tenth of
``demo_speech``), spoken by the voices of the training and by others.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import demo_speech
import numpy as np
from demo_speech import SAMPLE_RATE, Utterance
from faster_whisper import BatchedInferencePipeline, WhisperModel
from faster_whisper.audio import decode_audio

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger("evaluate_demo_model")


# --------------------------------------------------------------------------
# Recordings
# --------------------------------------------------------------------------


def arrange(
    utterances: list[Utterance], rng: random.Random, lead: float = 0.4, pause: tuple = (0.6, 1.5)
) -> tuple[np.ndarray, list[dict]]:
    """Put utterances one after another.

    Returns int16 audio of shape ``(samples,)`` and, per utterance, its text, voice,
    start, end and word times in seconds.
    """
    chunks, segments, clock = [], [], lead
    position = 0
    for utterance in utterances:
        start = int(clock * SAMPLE_RATE)
        chunks += [np.zeros(start - position, np.int16), utterance.audio]
        position = start + len(utterance.audio)
        segments.append(
            {
                "text": utterance.text,
                "voice": utterance.voice,
                "start": round(clock, 3),
                "end": round(clock + utterance.duration, 3),
                "words": [
                    {"word": w, "start": round(clock + a, 3), "end": round(clock + b, 3)} for w, a, b in utterance.words
                ],
            }
        )
        clock += utterance.duration + rng.uniform(*pause)
    chunks.append(np.zeros(int(0.5 * SAMPLE_RATE), np.int16))
    return np.concatenate(chunks), segments


def ffmpeg(audio: np.ndarray, path: str | Path, *options: str) -> None:
    """Encode int16 audio, ``(samples,)`` or ``(samples, channels)`` at 16 kHz, with ffmpeg."""
    channels = 1 if audio.ndim == 1 else audio.shape[1]
    command = ["ffmpeg", "-v", "error", "-y", "-f", "s16le", "-ar", str(SAMPLE_RATE)]
    command += ["-ac", str(channels), "-i", "-", "-bitexact", *options, str(path)]
    subprocess.run(command, input=np.ascontiguousarray(audio).tobytes(), check=True)


#: file name: (voice, sentences, ffmpeg options)
SAMPLES: dict[str, tuple[str, list[str], list[str]]] = {
    "hello.wav": (
        "flite:slt",
        ["hello this is a test", "the job is complete now"],
        [],
    ),
    "meeting_44k_stereo.wav": (
        "festival:ked_diphone",
        ["the meeting is on friday at eleven"],
        ["-ar", "44100", "-ac", "2"],
    ),
    "numbers.mp3": (
        "flite:awb",
        ["my number is seven three nine one", "room two hundred and forty five is ready"],
        ["-b:a", "48k"],
    ),
    "upload.ogg": (
        "espeak-ng:en-us+m3",
        ["please upload the audio file", "thank you and good evening"],
        ["-c:a", "libopus", "-b:a", "24k"],
    ),
    "report.m4a": (
        "festival:cmu_us_slt_arctic_hts",
        ["the october report is complete", "please send it tomorrow"],
        ["-c:a", "aac", "-b:a", "48k"],
    ),
    "code.flac": (
        "flite:kal16",
        ["your code is tango sierra victor", "the answer is no"],
        [],
    ),
    "colours.webm": (
        "espeak-ng:en+f2",
        ["open the yellow file", "close the black file", "the white file is not ready"],
        ["-c:a", "libopus", "-b:a", "24k"],
    ),
    "phone_8k.wav": (
        "flite:slt",
        ["good afternoon this is juliet", "please call room nineteen"],
        ["-ar", "8000", "-af", "highpass=f=300,lowpass=f=3400"],
    ),
    "unseen_voice.wav": (
        "flite:rms",
        ["good morning and welcome", "the result is ready"],
        [],
    ),
}

LONG_SENTENCES = [
    "good morning and welcome",
    "my name is charlie",
    "this is the monday meeting",
    "the audio file is ready",
    "the message is not complete",
    "please upload your report",
    "the test is on tuesday and the result is on thursday",
    "we are open on saturday",
    "the code is echo lima nine",
    "the answer is forty two",
    "please open the green file",
    "room one hundred and twelve is ready",
    "the call is on wednesday afternoon",
    "are you ready",
    "yes we are ready now",
    "please send the result today",
    "job number thirty six is complete",
    "start the call at ten",
    "close the red file",
    "the july report is good",
    "please call november",
    "stop the audio now",
    "thank you and good night",
]

DIALOGUE = [
    ("left", "hello this is victor"),
    ("right", "hello victor my name is india"),
    ("left", "is the report ready"),
    ("right", "yes the report is complete"),
    ("left", "please send it today"),
    ("right", "thank you and good night"),
]


def build_samples(output: str | Path) -> None:
    """Write the sample recordings and ``references.json``."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(5)
    references = []

    def add(name: str, segments: list[dict], **extra) -> None:
        seconds = len(decode_audio(str(folder / name))) / SAMPLE_RATE
        voices = sorted({s["voice"] for s in segments})
        references.append(
            {
                "file": name,
                "text": " ".join(s["text"] for s in segments),
                "voice": ", ".join(voices) or None,
                "duration": round(seconds, 2),
                "segments": segments,
                **extra,
            }
        )

    for index, (name, (voice, texts, options)) in enumerate(SAMPLES.items()):
        audio, segments = arrange(demo_speech.synthesize(voice, texts, index), rng)
        ffmpeg(audio, folder / name, *options)
        add(name, segments)

    voices = ["flite:slt", "flite:awb", "espeak-ng:en-us+m1"]
    spoken = []
    for start in range(0, len(LONG_SENTENCES), 8):
        voice = voices[start // 8]
        spoken += demo_speech.synthesize(voice, LONG_SENTENCES[start : start + 8], start)
    audio, segments = arrange(spoken, rng, pause=(0.8, 2.6))
    ffmpeg(audio, folder / "long.opus", "-c:a", "libopus", "-b:a", "24k")
    add("long.opus", segments)

    ffmpeg(np.zeros(3 * SAMPLE_RATE, np.int16), folder / "silence.wav")
    add("silence.wav", [])

    voice_of = {"left": "flite:awb", "right": "flite:slt"}
    turns = [demo_speech.synthesize(voice_of[side], [text], index)[0] for index, (side, text) in enumerate(DIALOGUE)]
    audio, segments = arrange(turns, rng, pause=(0.6, 1.0))
    stereo = np.zeros((len(audio), 2), np.int16)
    for (side, _), segment in zip(DIALOGUE, segments, strict=True):
        first, last = (int(segment[edge] * SAMPLE_RATE) for edge in ("start", "end"))
        channel = 0 if side == "left" else 1
        stereo[first:last, channel] = audio[first:last]
        segment["channel"] = channel
    ffmpeg(stereo, folder / "two_speakers_stereo.flac")
    add("two_speakers_stereo.flac", segments)

    (folder / "references.json").write_text(json.dumps(references, indent=1) + "\n")


# --------------------------------------------------------------------------
# Measurements
# --------------------------------------------------------------------------


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Return the word edit distance and the number of reference words."""
    expected, got = reference.split(), hypothesis.lower().split()
    row = list(range(len(got) + 1))
    for i, word in enumerate(expected, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(got, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1], len(expected)


class Score:
    """Word errors and timestamp errors, accumulated over recordings."""

    def __init__(self) -> None:
        self.errors = self.words = self.files = self.exact = 0
        self.segment_errors: list[float] = []
        self.word_errors: list[float] = []
        self.mistakes: list[tuple[str, str]] = []

    def add(self, truth: list[dict], segments: list) -> None:
        """Add one recording: ``truth`` from :func:`arrange`, ``segments`` from faster-whisper."""
        reference = " ".join(s["text"] for s in truth)
        hypothesis = " ".join(s.text.strip() for s in segments)
        errors, words = word_errors(reference, hypothesis)
        self.errors += errors
        self.words += words
        self.files += 1
        self.exact += errors == 0
        if errors:
            self.mistakes.append((reference, hypothesis))
        if [s.text.strip() for s in segments] == [s["text"] for s in truth]:
            for expected, got in zip(truth, segments, strict=True):
                self.segment_errors += [
                    abs(expected["start"] - got.start),
                    abs(expected["end"] - got.end),
                ]
        got_words = [w for s in segments for w in (s.words or [])]
        true_words = [w for s in truth for w in s["words"]]
        if [w.word.strip() for w in got_words] == [w["word"] for w in true_words]:
            for expected, got in zip(true_words, got_words, strict=True):
                self.word_errors += [
                    abs(expected["start"] - got.start),
                    abs(expected["end"] - got.end),
                ]

    def summary(self) -> dict:
        result = {
            "recordings": self.files,
            "words": self.words,
            "wer": round(self.errors / max(1, self.words), 4),
            "recordings_without_error": round(self.exact / max(1, self.files), 4),
        }
        for name, values in (("segment", self.segment_errors), ("word", self.word_errors)):
            if values:
                result[f"{name}_time_mean_error"] = round(float(np.mean(values)), 3)
                result[f"{name}_time_p95_error"] = round(float(np.percentile(values, 95)), 3)
        return result


Recording = tuple[np.ndarray, list[dict]]


def singles(utterances: Iterable[Utterance], rng: random.Random) -> list[Recording]:
    return [arrange([u], rng, lead=rng.uniform(0.05, 0.6)) for u in utterances]


def recode(recordings: list[Recording], suffix: str, *options: str) -> list[Recording]:
    """Encode and decode recordings with ffmpeg."""
    result = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{suffix}"
        for audio, truth in recordings:
            ffmpeg(audio, path, *options)
            result.append(((decode_audio(str(path)) * 32767).astype(np.int16), truth))
    return result


def with_noise(recordings: list[Recording]) -> list[Recording]:
    """Add white noise, 20 dB below the recording's level."""
    noisy = []
    for audio, truth in recordings:
        level = 10 ** (-20 / 20) * np.sqrt(np.mean((audio / 32768) ** 2))
        noise = np.random.default_rng(len(audio)).standard_normal(len(audio)) * level
        noisy.append((np.clip(audio + 32768 * noise, -32768, 32767).astype(np.int16), truth))
    return noisy


def score(model, recordings: list[Recording], **options) -> Score:
    result = Score()
    for audio, truth in recordings:
        waveform = audio.astype(np.float32) / 32768
        segments, _ = model.transcribe(waveform, **options)
        result.add(truth, list(segments))
    return result


def without_speech(model: WhisperModel) -> list[dict]:
    """Return the text that the model writes for silence, noise and a tone."""
    results = []
    generator = np.random.default_rng(0)
    for name, audio in {
        "digital silence 3 s": np.zeros(3 * SAMPLE_RATE),
        "digital silence 30 s": np.zeros(30 * SAMPLE_RATE),
        "quiet white noise 10 s": 0.003 * generator.standard_normal(10 * SAMPLE_RATE),
        "loud white noise 10 s": 0.1 * generator.standard_normal(10 * SAMPLE_RATE),
        "440 Hz tone 5 s": 0.2 * np.sin(2 * np.pi * 440 * np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE),
    }.items():
        segments, _ = model.transcribe(audio.astype(np.float32))
        plain, _ = model.transcribe(audio.astype(np.float32), without_timestamps=True)
        text = [s.text for s in segments]
        results.append({"audio": name, "text": text, "plain": [s.text for s in plain]})
        logger.info("no speech: %s %s", name, results[-1])
    return results


def speed(model_dir: str, audio: np.ndarray) -> dict[str, float]:
    """Return the real-time factor on one thread by mode, and the audio's length in seconds."""
    single = WhisperModel(model_dir, device="cpu", compute_type="int8", cpu_threads=1)
    batched = BatchedInferencePipeline(single)
    seconds = len(audio) / SAMPLE_RATE
    timings: dict[str, float] = {}
    for name, run in {
        "sequential": lambda: single.transcribe(audio),
        "sequential, beam_size=1": lambda: single.transcribe(audio, beam_size=1),
        "sequential, word_timestamps": lambda: single.transcribe(audio, word_timestamps=True),
        "batched, vad": lambda: batched.transcribe(audio, batch_size=8),
    }.items():
        begun = time.perf_counter()
        list(run()[0])
        timings[name] = round((time.perf_counter() - begun) / seconds, 4)
    logger.info("rtf %s", timings)
    return {"audio_seconds": round(seconds, 1), **timings}


def measure(model_dir: str, corpora: Path, threads: int, limit: int) -> dict:
    """Run every measurement and return a JSON-serialisable report."""
    rng = random.Random(7)
    model = WhisperModel(model_dir, device="cpu", compute_type="int8", cpu_threads=threads)
    report: dict = {}

    def note(name: str, result: Score) -> None:
        report[name] = result.summary()
        logger.info("%-38s %s", name, json.dumps(report[name]))
        for reference, hypothesis in result.mistakes[:4]:
            logger.info("      %s -> %s", reference, hypothesis)

    def corpus(name: str, voice_counts: dict[str, int], seed: int) -> list[Utterance]:
        path = corpora / f"{name}.npz"
        if not path.exists():
            demo_speech.save_corpus(str(path), demo_speech.build_corpus(voice_counts, seed, held_out=True))
        utterances = demo_speech.load_corpus(str(path))
        random.Random(1).shuffle(utterances)
        distinct = {u.text: u for u in utterances}  # short sentences are drawn often
        return list(distinct.values())[:limit]

    shares = demo_speech.TRAIN_SHARES
    seen = corpus("test_seen", {v: round(400 * s) for v, s in shares.items()}, 2)
    seen_clips = singles(seen, rng)
    note("seen voices, defaults", score(model, seen_clips))
    note("seen voices, word_timestamps", score(model, seen_clips, word_timestamps=True))
    note("seen voices, without_timestamps", score(model, seen_clips, without_timestamps=True))
    note("seen voices, beam_size=1", score(model, seen_clips, beam_size=1))
    triples = [arrange(seen[i : i + 3], rng) for i in range(0, len(seen) - 2, 3)]
    note("three sentences, defaults", score(model, triples))
    note("three sentences, word_timestamps", score(model, triples, word_timestamps=True))
    note("three sentences, without_timestamps", score(model, triples, without_timestamps=True))
    unseen: dict[str, list[Utterance]] = {}
    for voice in demo_speech.UNSEEN_VOICES:
        unseen[voice] = corpus("test_" + voice.replace(":", "_"), {voice: 150}, 3)
        note(f"unseen voice {voice}", score(model, singles(unseen[voice], rng)))
    some = seen_clips[: limit // 2]
    for name, suffix, options in (
        ("mp3 32 kbit/s", ".mp3", ["-b:a", "32k"]),
        ("opus 16 kbit/s", ".opus", ["-c:a", "libopus", "-b:a", "16k"]),
        ("8 kHz telephone band", ".wav", ["-ar", "8000", "-af", "highpass=f=300,lowpass=f=3400"]),
    ):
        note(f"seen voices, {name}", score(model, recode(some, suffix, *options)))
    note("seen voices, white noise at 20 dB", score(model, with_noise(some)))

    long_seen = []
    for _ in range(6):
        voice = rng.choice([u.voice for u in seen])
        pool = [u for u in seen if u.voice.split(":")[0] == voice.split(":")[0]]
        long_seen.append(arrange(rng.sample(pool, min(24, len(pool))), rng))
    long_unseen = [arrange(rng.sample(utterances, min(24, len(utterances))), rng) for utterances in unseen.values()]
    batched = BatchedInferencePipeline(model)
    for name, long in (("seen voices", long_seen), ("unseen voices", long_unseen)):
        note(f"long-form, {name}, sequential", score(model, long, word_timestamps=True))
        note(f"long-form, {name}, sequential, vad", score(model, long, vad_filter=True, word_timestamps=True))
        note(
            f"long-form, {name}, sequential, no previous text",
            score(model, long, vad_filter=True, condition_on_previous_text=False),
        )
        note(
            f"long-form, {name}, batched, vad",
            score(batched, long, batch_size=8, vad_filter=True, word_timestamps=True),
        )
        note(
            f"long-form, {name}, batched, vad, timestamps",
            score(batched, long, batch_size=8, vad_filter=True, without_timestamps=False),
        )

    full = WhisperModel(model_dir, device="cpu", compute_type="float32", cpu_threads=threads)
    note("seen voices, float32 compute", score(full, seen_clips))

    report["no speech"] = without_speech(model)
    audio = long_seen[0][0].astype(np.float32) / 32768
    _, info = model.transcribe(audio)
    report["language"] = {
        "is_multilingual": model.model.is_multilingual,
        "language": info.language,
        "probability": info.language_probability,
    }
    report["real-time factor, one thread"] = speed(model_dir, audio)
    files = {path.name: path.stat().st_size for path in sorted(Path(model_dir).iterdir())}
    report["files"] = {**files, "total": sum(files.values())}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    samples = commands.add_parser("samples", help="write the sample recordings")
    samples.add_argument("--output", default=demo_speech.REPOSITORY / "samples")
    check = commands.add_parser("measure", help="measure the model")
    check.add_argument("--model", default=demo_speech.MODEL_DIR)
    check.add_argument("--work-dir", default=demo_speech.WORK_DIR, help="where test corpora are kept")
    check.add_argument("--output", default=Path(__file__).with_name("evaluation.json"))
    check.add_argument("--threads", type=int, default=2)
    check.add_argument("--limit", type=int, default=250, help="recordings per measurement")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
    if args.command == "samples":
        build_samples(args.output)
        return
    work = Path(args.work_dir)
    work.mkdir(parents=True, exist_ok=True)
    report = measure(str(args.model), work, args.threads, args.limit)
    Path(args.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
