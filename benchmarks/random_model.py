"""A Whisper model of real dimensions with random weights, to measure speed without a download.

    python -m benchmarks.random_model base FOLDER

It detects English and generates the same words in every window. The position embeddings of the decoder point at the
word of their position, so that each is generated with certainty and crosses no threshold (log probability,
compression ratio, no speech). With plain random weights every window would need all fallbacks, which would dominate
the measurement.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tokenizers
from ctranslate2.specs import whisper_spec
from faster_whisper.tokenizer import _LANGUAGE_CODES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

#: The lengths of the decoder's and the encoder's position embeddings.
TEXT_POSITIONS: Final = 448
AUDIO_POSITIONS: Final = 1500
TEXT_VOCABULARY: Final = 50_257
#: The weight of the position embedding over that of the previous word.
_POSITION_WEIGHT: Final = 40.0
_SPREAD: Final = 0.02


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The dimensions of OpenAI's models (``whisper/model.py`` and the published configurations)."""

    width: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    mels: int


SIZES: Final = {
    "tiny": Dimensions(384, 4, 4, 6, 80),
    "base": Dimensions(512, 6, 6, 8, 80),
    "small": Dimensions(768, 12, 12, 12, 80),
    "turbo": Dimensions(1280, 32, 4, 20, 128),
}


class Vocabulary:
    """As many tokens of each kind as Whisper has; the words are distinct random letters."""

    def __init__(self) -> None:
        self.bytes = sorted(pre_tokenizers.ByteLevel.alphabet())
        letters = np.random.default_rng(1).integers(0, 26, (60_000, 6))
        words = dict.fromkeys("Ġ" + "".join(chr(97 + letter) for letter in row) for row in letters)
        # CTranslate2 takes a model for multilingual if its vocabulary has an empty string.
        self.text = [*self.bytes, *list(words)[: TEXT_VOCABULARY - 1 - len(self.bytes)], ""]
        self.languages = [f"<|{code}|>" for code in _LANGUAGE_CODES if code != "yue"]
        self.special = [
            *("<|endoftext|>", "<|startoftranscript|>", *self.languages, "<|translate|>", "<|transcribe|>"),
            *("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
        ]
        self.timestamps = [f"<|{index * 0.02:.2f}|>" for index in range(1501)]
        self.all = self.text + self.special + self.timestamps

    def word_at(self, position: int) -> int:
        return len(self.bytes) + 7 * position

    def tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(self.text)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in self.special])
        tokenizer.add_tokens([tokenizers.AddedToken(token) for token in self.timestamps])
        return tokenizer


def make(size: str, folder: Path, *, tokens: int = 64, quantization: str = "int8") -> Path:
    """Write the model in CTranslate2's format; the text of each window ends at position ``tokens``."""
    shape = SIZES[size]
    vocabulary = Vocabulary()
    spec = _Weights(shape, vocabulary).spec(tokens)
    spec.validate()
    spec.optimize(quantization=quantization)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    vocabulary.tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {"chunk_length": 30, "feature_size": shape.mels, "hop_length": 160, "n_fft": 400, "sampling_rate": 16_000}
        )
    )
    return folder


class _Weights:
    def __init__(self, shape: Dimensions, vocabulary: Vocabulary) -> None:
        self._shape = shape
        self._vocabulary = vocabulary
        self._random = np.random.default_rng(0)

    def spec(self, tokens: int) -> Any:
        shape, vocabulary = self._shape, self._vocabulary
        spec: Any = whisper_spec.WhisperSpec(shape.encoder_layers, shape.heads, shape.decoder_layers, shape.heads)
        self._encoder(spec.encoder)
        self._decoder(spec.decoder, tokens)
        spec.register_vocabulary(vocabulary.all)
        first = vocabulary.all.index(vocabulary.languages[0])
        spec.config.lang_ids = list(range(first, first + len(vocabulary.languages)))
        spec.config.suppress_ids = [len(vocabulary.text) - 1]
        spec.config.suppress_ids_begin = [vocabulary.all.index("<|endoftext|>")]
        layers = range(shape.decoder_layers // 2, shape.decoder_layers)
        spec.config.alignment_heads = [[layer, head] for layer in layers for head in range(shape.heads)]
        return spec

    def _encoder(self, encoder: Any) -> None:
        width = self._shape.width
        for convolution, inputs in ((encoder.conv1, self._shape.mels), (encoder.conv2, width)):
            convolution.weight = self._normal(width, inputs, 3)
            convolution.bias = np.zeros(width, np.float32)
        encoder.position_encodings.encodings = self._normal(AUDIO_POSITIONS, width)
        self._norm(encoder.layer_norm)
        for layer in encoder.layer:
            self._attention(layer.self_attention, 3, 1)
            self._feed_forward(layer.ffn)

    def _decoder(self, decoder: Any, tokens: int) -> None:
        for layer in decoder.layer:
            self._attention(layer.self_attention, 3, 1)
            self._attention(layer.attention, 1, 2, 1)
            self._feed_forward(layer.ffn)
        embeddings = self._normal(len(self._vocabulary.all), self._shape.width)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)  # only the weight of the position decides
        decoder.embeddings.weight = decoder.projection.weight = embeddings
        decoder.position_encodings.encodings = self._positions(embeddings, tokens)
        decoder.scale_embeddings = False
        self._norm(decoder.layer_norm)

    def _positions(self, embeddings: Array, tokens: int) -> Array:
        vocabulary = self._vocabulary
        end = vocabulary.all.index("<|endoftext|>")
        words = [vocabulary.word_at(position) if position < tokens else end for position in range(TEXT_POSITIONS)]
        words[0] = vocabulary.all.index("<|en|>")  # what follows <|startoftranscript|>
        return self._normal(TEXT_POSITIONS, self._shape.width) + np.float32(_POSITION_WEIGHT) * embeddings[words]

    def _attention(self, attention: Any, *parts: int) -> None:
        width = self._shape.width
        self._norm(attention.layer_norm)
        outputs = parts if len(parts) == len(attention.linear) else (*parts, 1)
        for linear, part in zip(attention.linear, outputs, strict=True):
            self._linear(linear, part * width, width)

    def _feed_forward(self, feed_forward: Any) -> None:
        width = self._shape.width
        self._norm(feed_forward.layer_norm)
        self._linear(feed_forward.linear_0, 4 * width, width)
        self._linear(feed_forward.linear_1, width, 4 * width)

    def _norm(self, norm: Any) -> None:
        norm.gamma = np.ones(self._shape.width, np.float32)
        norm.beta = np.zeros(self._shape.width, np.float32)

    def _linear(self, linear: Any, outputs: int, inputs: int) -> None:
        linear.weight = self._normal(outputs, inputs)
        linear.bias = np.zeros(outputs, np.float32)

    def _normal(self, *shape: int) -> Array:
        return self._random.standard_normal(shape, dtype=np.float32) * np.float32(_SPREAD)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.random_model")
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--tokens", type=int, default=64, help="the position at which the text of each window ends (default 64)"
    )
    parser.add_argument("--quantization", default="int8")
    arguments = parser.parse_args()
    make(arguments.size, arguments.folder, tokens=arguments.tokens, quantization=arguments.quantization)


if __name__ == "__main__":
    main()
