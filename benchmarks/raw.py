"""The limit: the same windows through CTranslate2 in batches, without a server, in one process.

    python -m benchmarks.raw MODEL BATCH_SIZE FILE...

Decoding, speech detection and features are done, and counted, first; prints the seconds from start to end.
``--apart`` encodes the windows one by one and only decodes them together, which is cheaper on a CPU. ``--pipeline`` has
faster-whisper's ``BatchedInferencePipeline`` transcribe one file instead.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import ctranslate2
import numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel, decode_audio
from faster_whisper.vad import VadOptions, get_speech_timestamps


def windows(model: WhisperModel, path: str) -> list[Any]:
    """The features of each stretch of speech of at most 30 s, padded to 30 s."""
    audio: Any = decode_audio(path)
    stretches = get_speech_timestamps(audio, VadOptions(min_silence_duration_ms=500, max_speech_duration_s=30))
    packed: list[list[int]] = []
    for stretch in stretches:
        if packed and stretch["end"] - packed[-1][0] <= 30 * 16_000:
            packed[-1][1] = stretch["end"]
        else:
            packed.append([stretch["start"], stretch["end"]])
    found = []
    for start, end in packed:
        features = model.feature_extractor(audio[start:end])[:, :-1]
        found.append(np.pad(features, ((0, 0), (0, 3000 - features.shape[1]))).astype(np.float32))
    return found


def encoded(model: WhisperModel, batch: list[Any], *, apart: bool) -> Any:
    if not apart:
        return model.model.encode(ctranslate2.StorageView.from_array(np.stack(batch)))
    outputs = [model.model.encode(ctranslate2.StorageView.from_array(one[None])) for one in batch]
    return ctranslate2.StorageView.from_array(np.concatenate([np.asarray(one) for one in outputs]))


def run(model: WhisperModel, size: int, paths: list[str], *, apart: bool) -> int:
    every = [window for path in paths for window in windows(model, path)]
    token = model.hf_tokenizer.token_to_id
    for start in range(0, len(every), size):
        output = encoded(model, every[start : start + size], apart=apart)
        languages = [found[0][0] for found in model.model.detect_language(output)]
        prompts = [[token("<|startoftranscript|>"), token(one), token("<|transcribe|>")] for one in languages]
        model.model.generate(output, prompts, beam_size=5, return_scores=True, return_no_speech_prob=True)
    return len(every)


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    location, size, *paths = arguments
    model = WhisperModel(location, device="cpu", compute_type="int8", cpu_threads=os.cpu_count() or 1)
    decode_audio(paths[0])  # loads what is loaded on first use
    started = time.perf_counter()
    if "--pipeline" in sys.argv:
        segments, _ = BatchedInferencePipeline(model).transcribe(paths[0], batch_size=int(size), beam_size=5)
        count = len(list(segments))
    else:
        count = run(model, int(size), paths, apart="--apart" in sys.argv)
    print(f"{time.perf_counter() - started:.3f} {count}")


if __name__ == "__main__":
    main()
