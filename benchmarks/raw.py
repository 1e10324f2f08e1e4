"""The limit of the model: the same windows through CTranslate2 in batches, in one process without a server.

    python -m benchmarks.raw MODEL DEVICE COMPUTE_TYPE BATCH_SIZE FILE...

Prints the seconds that it took, including decoding the files, speech detection and features. ``--apart`` encodes the
windows one by one and only decodes them together, which is cheaper on a CPU. ``--pipeline`` uses faster-whisper's
``BatchedInferencePipeline`` for one file instead.
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
    """Return the features of each window of up to 30 s of speech, shape ``(n_mels, 3000)``."""
    audio: Any = decode_audio(path)
    spans = get_speech_timestamps(audio, VadOptions(min_silence_duration_ms=500, max_speech_duration_s=30))
    packed: list[list[int]] = []
    for span in spans:
        if packed and span["end"] - packed[-1][0] <= 30 * 16_000:
            packed[-1][1] = span["end"]
        else:
            packed.append([span["start"], span["end"]])
    features_of_windows = []
    for start, end in packed:
        features = model.feature_extractor(audio[start:end])[:, :-1]
        features_of_windows.append(np.pad(features, ((0, 0), (0, 3000 - features.shape[1]))).astype(np.float32))
    return features_of_windows


def encoded(model: WhisperModel, batch: list[Any], *, apart: bool) -> Any:
    if not apart:
        return model.model.encode(ctranslate2.StorageView.from_array(np.stack(batch)))
    outputs = [model.model.encode(ctranslate2.StorageView.from_array(features[None])) for features in batch]
    return ctranslate2.StorageView.from_array(np.concatenate([np.asarray(output) for output in outputs]))


def run(model: WhisperModel, size: int, paths: list[str], *, apart: bool) -> int:
    all_windows = [window for path in paths for window in windows(model, path)]
    token = model.hf_tokenizer.token_to_id
    for start in range(0, len(all_windows), size):
        output = encoded(model, all_windows[start : start + size], apart=apart)
        languages = [ranking[0][0] for ranking in model.model.detect_language(output)]
        prompts = [[token("<|startoftranscript|>"), token(language), token("<|transcribe|>")] for language in languages]
        model.model.generate(output, prompts, beam_size=5, return_scores=True, return_no_speech_prob=True)
    return len(all_windows)


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    location, device, compute_type, size, *paths = arguments
    model = WhisperModel(location, device=device, compute_type=compute_type, cpu_threads=os.cpu_count() or 1)
    decode_audio(paths[0])  # loads the libraries
    started = time.perf_counter()
    if "--pipeline" in sys.argv:
        segments, _ = BatchedInferencePipeline(model).transcribe(paths[0], batch_size=int(size), beam_size=5)
        count = len(list(segments))
    else:
        count = run(model, int(size), paths, apart="--apart" in sys.argv)
    print(f"{time.perf_counter() - started:.3f} {count}")


if __name__ == "__main__":
    main()
