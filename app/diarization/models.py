"""The two models that tell voices apart, on onnxruntime, which is imported here only.

*pyannote segmentation-3.0* says which of three local speakers speak in each frame of a chunk of 10 s. *CAM++* turns the
spectrogram of a second or two of one speaker into an embedding: a point on a sphere, near those of the same voice.
"""

from __future__ import annotations

from concurrent.futures import Future
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from app.domain.errors import ModelUnavailable
from app.domain.telemetry import disable_telemetry

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]
    Spectrogram = npt.NDArray[np.float32]
    Embeddings = npt.NDArray[np.float32]
    Activity = npt.NDArray[np.bool_]

#: The folder with the models that are part of this package; its `README.md` says where they come from.
BUNDLED: Final = Path(__file__).with_name("weights")
SAMPLE_RATE: Final = 16_000
CHUNK_SAMPLES: Final = 10 * SAMPLE_RATE
#: The frames of a chunk: one every 270 samples, centred on a field of 991 samples.
CHUNK_FRAMES: Final = 589
FRAME_SAMPLES: Final = 270
FIRST_FRAME_CENTRE: Final = 495
#: The local speakers of a chunk.
SLOTS: Final = 3
EMBEDDING_SIZE: Final = 192
#: The bands of a spectrogram, and its shortest useful length in frames of 10 ms.
BANDS: Final = 80
MIN_SPECTROGRAM_FRAMES: Final = 20
#: Bands of speech, 0.7 to 2.7 kHz, and those above 4.6 kHz, which a telephone doesn't transmit.
_SPEECH_BANDS: Final = slice(20, 50)
_HIGH_BANDS: Final = slice(64, BANDS)
#: The energy of the high bands less that of the speech bands, as natural logarithms, is above the first in speech of a
#: full band, and below the second in telephone calls.
_FULL_BAND: Final = -3.0
_TELEPHONE: Final = -6.0

#: More at once take more memory and no less time.
_BATCH: Final = 4
#: Which slots speak in each class of the segmentation's output: none, one, or two of the three.
_SLOTS_OF_CLASS: Final = np.array(
    [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], np.bool_
)


class VoiceModels:
    """Both models, loaded once and shared by all recordings.

    The methods block; several threads may call them at the same time. Threads of their own compute, which have the
    priority of the thread that loads them. The callers' threads, which hold Python's interpreter in between, can have
    a higher one: if they had to wait for a core with the interpreter in their hands, the whole process would wait.
    """

    def __init__(self, segmentation: _Model, embedding: _Model, telephone_offset: Embeddings) -> None:
        self._segmentation = segmentation
        self._embedding = embedding
        self._telephone_offset = telephone_offset

    @classmethod
    def load(cls, folder: Path = BUNDLED, *, threads: int = 1) -> Self:
        """Load ``segmentation.onnx``, ``campplus.onnx`` and ``telephone.npy`` from a folder, and try them.

        Each of the two models computes in this many ``threads``.

        ModelUnavailable says which file is missing, damaged or another model.
        """
        chunk = np.zeros((1, 1, CHUNK_SAMPLES), np.float32)
        spectrogram = np.zeros((1, MIN_SPECTROGRAM_FRAMES, BANDS), np.float32)
        return cls(
            _load(folder / "segmentation.onnx", threads, chunk, (1, CHUNK_FRAMES, len(_SLOTS_OF_CLASS))),
            _load(folder / "campplus.onnx", threads, spectrogram, (1, EMBEDDING_SIZE)),
            _vector(folder / "telephone.npy"),
        )

    def segment(self, chunks: Samples) -> Activity:
        """Return which local speakers speak in each frame of chunks of 10 s.

        ``chunks`` are samples from -1 to 1, shape ``(n, 160000)``; the result has the shape ``(n, 589, 3)``. At most
        two of the three speak at once. A slot is the same person within a chunk only.
        """
        classes = [
            self._segmentation.compute(chunks[start : start + _BATCH, np.newaxis]).argmax(axis=-1)
            for start in range(0, len(chunks), _BATCH)
        ]
        activity: Activity = _SLOTS_OF_CLASS[np.concatenate([np.zeros((0, CHUNK_FRAMES), np.intp), *classes])]
        return activity

    def embed(self, spectrograms: Sequence[Spectrogram]) -> Embeddings:
        """Return an embedding of unit length for each spectrogram ``(frames, 80)``, shape ``(n, 192)``.

        They may differ in length. Those of the same length are computed together. A telephone makes all voices alike;
        what its embeddings have in common is subtracted.
        """
        embeddings = np.zeros((len(spectrograms), EMBEDDING_SIZE), np.float32)
        by_length = sorted(range(len(spectrograms)), key=lambda index: len(spectrograms[index]))
        for _, group in groupby(by_length, key=lambda index: len(spectrograms[index])):
            same_length = list(group)
            for start in range(0, len(same_length), _BATCH):
                batch = same_length[start : start + _BATCH]
                stacked = np.stack([spectrograms[index] for index in batch])
                stacked -= stacked.mean(axis=1, keepdims=True)
                embeddings[batch] = self._embedding.compute(stacked)
        telephony = np.array([_telephony(spectrogram) for spectrogram in spectrograms], np.float32)
        return as_unit(as_unit(embeddings) - telephony[:, np.newaxis] * self._telephone_offset)


def as_unit(vectors: Embeddings) -> Embeddings:
    """Return vectors of length 1 in the directions of these, which are rows."""
    unit: Embeddings = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return unit


def _telephony(spectrogram: Spectrogram) -> float:
    """Return 1 for the speech of a telephone call, 0 for speech of a full band, and values between them if unsure."""
    contrast = float(spectrogram[:, _HIGH_BANDS].mean() - spectrogram[:, _SPEECH_BANDS].mean())
    return min(max((_FULL_BAND - contrast) / (_FULL_BAND - _TELEPHONE), 0.0), 1.0)


class _Model:
    """A model with one input and one output, in an ``InferenceSession`` of onnxruntime."""

    def __init__(self, session: Any) -> None:
        self._session = session
        (self._input,) = (value.name for value in session.get_inputs())

    def compute(self, value: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the output for an input. RuntimeError says what is wrong with it."""
        output: Future[npt.NDArray[np.float32]] = Future()

        def finish(outputs: Sequence[npt.NDArray[np.float32]], _: object, error: str) -> None:
            if error:
                output.set_exception(RuntimeError(error))
            else:
                output.set_result(outputs[0])

        self._session.run_async(None, {self._input: value}, finish, None)
        return output.result()


def _load(path: Path, threads: int, value: npt.NDArray[np.float32], shape: tuple[int, ...]) -> _Model:
    """Return a model that has computed something of this ``shape`` from a ``value``."""
    disable_telemetry()
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    # The exceptions of onnxruntime have no base of their own.
    raised = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    failures: tuple[type[Exception], ...] = (ValueError, RuntimeError, *raised)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads + 1  # it counts the thread of the caller, which only waits
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False  # it would keep the memory of the largest batch
    options.log_severity_level = 4  # what is wrong with a file is in the exception
    try:
        model = _Model(onnxruntime.InferenceSession(_content(path), options, providers=["CPUExecutionProvider"]))
        output = model.compute(value)
    except failures as error:
        raise _unusable(path) from error
    if output.shape != shape:
        raise _unusable(path)
    return model


def _vector(path: Path) -> Embeddings:
    try:
        vector: Embeddings = np.load(BytesIO(_content(path)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _unusable(path) from error
    if vector.shape != (EMBEDDING_SIZE,) or vector.dtype != np.float32:
        raise _unusable(path)
    return vector


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelUnavailable(
            f"{path} can't be read ({error.strerror}): DIARIZATION_MODEL must be `auto`, `none` or a folder with "
            "segmentation.onnx, campplus.onnx and telephone.npy."
        ) from error


def _unusable(path: Path) -> ModelUnavailable:
    return ModelUnavailable(
        f"{path} can't be used: it is damaged, or not the file of that name that this service needs."
    )
