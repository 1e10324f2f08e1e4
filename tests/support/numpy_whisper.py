"""Whisper in numpy, an independent implementation to check the probabilities of CTranslate2.

The network follows Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022), section 2.2,
and their ``whisper/model.py``. The weights are read from CTranslate2's format, which its
``python/ctranslate2/specs/model_spec.py`` writes. Everything is computed in float64.
"""

from __future__ import annotations

import math
import struct
from io import BytesIO
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

_FORMAT_VERSION: Final = 6
#: CTranslate2's ``DataType`` by number; numpy has no equivalent of the sixth one, bfloat16.
_TYPES: Final = ("<f4", "<i1", "<i2", "<i4", "<f2")
_FRAMES: Final = 3000
_NORM_EPSILON: Final = 1e-5
_erf = np.vectorize(math.erf, otypes=[np.float64])


class NumpyWhisper:
    """A Whisper model in CTranslate2's format from ``folder``, with int8 and int16 weights dequantized."""

    def __init__(self, folder: Path) -> None:
        self._weights = read_weights(folder / "model.bin")

    def encode(self, features: npt.NDArray[np.float32]) -> Array:
        """Return the encoder's output, shape ``(1500, width)``.

        ``features`` is a log-mel spectrogram of up to 30 s, shape ``(n_mels, frames)``, which is padded with zeros.
        """
        x = np.pad(features.astype(np.float64), ((0, 0), (0, _FRAMES - features.shape[1]))).T
        x = _gelu(self._convolved("encoder/conv1", x, stride=1))
        x = _gelu(self._convolved("encoder/conv2", x, stride=2))
        x = x + self._weights["encoder/position_encodings/encodings"]
        for layer in self._layers("encoder"):
            x = x + self._self_attention(f"{layer}/self_attention", x, mask=np.zeros(()))
            x = x + self._feed_forward(f"{layer}/ffn", x)
        return self._normed("encoder/layer_norm", x)

    def logits(self, encoded: npt.NDArray[np.floating], tokens: Sequence[int]) -> Array:
        """Return the decoder's logits after each of ``tokens``, shape ``(tokens, vocabulary)``.

        ``encoded`` has the shape ``(positions, width)``.
        """
        count = len(tokens)
        x = self._weights["decoder/embeddings/weight"][list(tokens)]
        x = x + self._weights["decoder/position_encodings/encodings"][:count]
        causal_mask = np.triu(np.full((count, count), -np.inf), k=1)
        for layer in self._layers("decoder"):
            x = x + self._self_attention(f"{layer}/self_attention", x, mask=causal_mask)
            x = x + self._cross_attention(f"{layer}/attention", x, encoded.astype(np.float64))
            x = x + self._feed_forward(f"{layer}/ffn", x)
        return self._normed("decoder/layer_norm", x) @ self._weights["decoder/projection/weight"].T

    def log_probabilities(
        self,
        encoded: npt.NDArray[np.floating],
        start: Sequence[int],
        text: Sequence[int],
        *,
        vocabulary: int | None = None,
    ) -> list[float]:
        """Return ln P(token | encoded audio, start, text before it) for each token of ``text``.

        ``encoded`` has the shape ``(positions, width)``. If ``vocabulary`` is set, only the tokens below it are
        possible. CTranslate2's ``align`` uses the id of the end of text, so that only text is possible.
        """
        before = self.logits(encoded, [*start, *text])[len(start) - 1 : -1, :vocabulary]
        chosen = before[np.arange(len(text)), list(text)]
        top = before.max(axis=-1)
        total = top + np.log(np.exp(before - top[:, np.newaxis]).sum(axis=-1))
        return [float(value) for value in chosen - total]

    def _layers(self, side: str) -> list[str]:
        names = {name.split("/")[1] for name in self._weights if name.startswith(f"{side}/layer_")}
        return [f"{side}/layer_{number}" for number in range(len(names - {"layer_norm"}))]

    def _self_attention(self, name: str, x: Array, *, mask: Array) -> Array:
        queries, keys, values = np.split(self._linear(f"{name}/linear_0", self._normed(f"{name}/layer_norm", x)), 3, -1)
        return self._linear(f"{name}/linear_1", self._attended(name, queries, keys, values, mask))

    def _cross_attention(self, name: str, x: Array, encoded: Array) -> Array:
        queries = self._linear(f"{name}/linear_0", self._normed(f"{name}/layer_norm", x))
        keys, values = np.split(self._linear(f"{name}/linear_1", encoded), 2, -1)
        return self._linear(f"{name}/linear_2", self._attended(name, queries, keys, values, np.zeros(())))

    def _attended(self, name: str, queries: Array, keys: Array, values: Array, mask: Array) -> Array:
        heads = int(self._weights[f"{name.split('/')[0]}/num_heads"])
        q, k, v = (x.reshape(len(x), heads, -1).swapaxes(0, 1) for x in (queries, keys, values))
        scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1]) + mask
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed: Array = weights / weights.sum(axis=-1, keepdims=True) @ v
        return mixed.swapaxes(0, 1).reshape(queries.shape)

    def _feed_forward(self, name: str, x: Array) -> Array:
        inner = self._linear(f"{name}/linear_0", self._normed(f"{name}/layer_norm", x))
        return self._linear(f"{name}/linear_1", _gelu(inner))

    def _linear(self, name: str, x: Array) -> Array:
        return x @ self._weights[f"{name}/weight"].T + self._weights[f"{name}/bias"]

    def _normed(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled: Array = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + _NORM_EPSILON)
        return scaled * self._weights[f"{name}/gamma"] + self._weights[f"{name}/beta"]

    def _convolved(self, name: str, x: Array, *, stride: int) -> Array:
        """Convolve three positions at a time, padded with zeros.

        The shape ``(times, inputs)`` becomes ``(times / stride, outputs)``.
        """
        surroundings = sliding_window_view(np.pad(x, ((1, 1), (0, 0))), 3, axis=0)[::stride]
        weight = self._weights[f"{name}/weight"]
        summed = surroundings.reshape(len(surroundings), -1) @ weight.reshape(len(weight), -1).T
        return summed + self._weights[f"{name}/bias"]


def _gelu(x: Array) -> Array:
    """Return the exact GELU, not its approximation by tanh."""
    exact: Array = x / 2 * (1 + _erf(x / math.sqrt(2)))
    return exact


def read_weights(path: Path) -> dict[str, Array]:
    """Return the variables of CTranslate2's ``model.bin`` by name, dequantized, with aliases resolved.

    The format is little-endian: its version (uint32), the specification's name and revision (uint32); the number of
    variables (uint32), and for each its name, rank (uint8), dimensions (uint32), type (uint8), size in bytes (uint32)
    and value; the number of aliases (uint32), and for each its name and its target's. A string is its length (uint16,
    including the zero at its end) and UTF-8.
    """
    reader = _Reader(path.read_bytes())
    if (version := reader.number("I")) != _FORMAT_VERSION:
        raise ValueError(f"{path} has version {version} of the format; only version {_FORMAT_VERSION} is supported.")
    _specification, _revision = reader.string(), reader.number("I")
    stored = dict(reader.variable() for _ in range(reader.number("I")))
    weights = {name: _dequantized(value, stored.get(f"{name}_scale")) for name, value in stored.items()}
    for _ in range(reader.number("I")):
        alias, target = reader.string(), reader.string()
        weights[alias] = weights[target]
    return weights


def _dequantized(value: Array, scale: Array | None) -> Array:
    """Divide by the scale, which is one for the whole weight (int16) or one for each of its rows (int8)."""
    return value if scale is None else value / scale.reshape(-1, *[1] * (value.ndim - 1))


class _Reader(BytesIO):
    def number(self, kind: str) -> int:
        number: int = struct.unpack(f"<{kind}", self.read(struct.calcsize(kind)))[0]
        return number

    def string(self) -> str:
        return self.read(self.number("H")).rstrip(b"\0").decode()

    def variable(self) -> tuple[str, Array]:
        name = self.string()
        shape = [self.number("I") for _ in range(self.number("B"))]
        kind = _TYPES[self.number("B")]
        value = np.frombuffer(self.read(self.number("I")), kind)
        return name, value.reshape(shape).astype(np.float64)
