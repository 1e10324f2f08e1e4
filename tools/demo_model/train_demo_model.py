#!/usr/bin/env python3
"""Train the demo model: a tiny Whisper with a small English vocabulary.

The model has Whisper's architecture, prompt format, timestamp tokens and log-Mel
input, so that faster-whisper runs it like any other model, but it is trained from
scratch on synthetic speech only (see ``demo_speech.py``) and can write nothing
but the words of ``demo_speech.VOCABULARY``.

    python tools/demo_model/train_demo_model.py

synthesizes the training speech into ``build/demo_model``, trains for ``--minutes`` on
the CPU and replaces the CTranslate2 model in ``app/transcription/demo_model``.

Besides Whisper's next-token loss, auxiliary losses use the word times reported by the
synthesizers: every encoder position is classified into the word and the phone that is
being spoken, and cross-attention heads are pulled towards the word which was written
last (in the layer before the last) and the one which is about to be written (in the
last layer).  Together with the initialisation of the encoder (``attend_nearby``,
``scale_convolutions``) they make training a matter of an hour on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import demo_speech
import numpy as np
import scipy.fft
import scipy.special
import torch
import torch.nn.functional as F  # noqa: N812  # PyTorch's own name for it
from demo_speech import MODEL_DIR, SAMPLE_RATE, VOCABULARY, WORK_DIR, Utterance
from faster_whisper.feature_extractor import FeatureExtractor
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor, nn

logger = logging.getLogger("train_demo_model")

FRAME = 0.02  # seconds per encoder position, and per timestamp token
MAX_POSITIONS = 1500  # encoder positions of a 30 s window
MAX_TOKENS = 448
N_MELS = 80
GUIDED_HEADS = (0, 1)  # of the last two decoder layers, which supervision pulls to the words
LANGUAGES = ("en", "zh", "de", "es", "ru", "ko", "fr", "ja", "pt", "it")
IGNORE = -100
POSITION_SCALE = 0.5  # of the encoder's sinusoids


# --------------------------------------------------------------------------
# Tokenizer
# --------------------------------------------------------------------------


def build_tokenizer() -> Tokenizer:
    """Return a byte-level tokenizer in which each vocabulary word is one token.

    The first 256 ids are the bytes (so that any prompt can be encoded), then come
    the words with their leading space, then Whisper's special tokens in Whisper's
    order, the timestamps last.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + ["\u0120" + word for word in VOCABULARY]
    tokenizer = Tokenizer(
        models.WordPiece(
            {token: index for index, token in enumerate(tokens)},
            unk_token=alphabet[0],
            continuing_subword_prefix="",
            max_input_chars_per_word=100_000,
        )
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|startoftranscript|>"]
    special += [f"<|{language}|>" for language in LANGUAGES]
    special += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"]
    special += ["<|nospeech|>", "<|notimestamps|>"]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken(f"<|{i * FRAME:.2f}|>", normalized=False) for i in range(MAX_POSITIONS + 1)])
    return tokenizer


class Ids:
    """Token ids used when building training sequences."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        find = tokenizer.token_to_id
        self.size = tokenizer.get_vocab_size()
        self.word = {word: find("\u0120" + word) for word in VOCABULARY}
        self.eot = find("<|endoftext|>")
        self.sot = find("<|startoftranscript|>")
        self.language = {language: find(f"<|{language}|>") for language in LANGUAGES}
        self.translate = find("<|translate|>")
        self.transcribe = find("<|transcribe|>")
        self.prev = find("<|startofprev|>")
        self.nospeech = find("<|nospeech|>")
        self.notimestamps = find("<|notimestamps|>")
        self.time0 = find("<|0.00|>")

    def time(self, seconds: float) -> int:
        return self.time0 + min(max(round(seconds / FRAME), 0), MAX_POSITIONS)


# --------------------------------------------------------------------------
# Model.  Parameters are named as in Hugging Face's implementation, so that
# CTranslate2's Whisper converter can read the modules.
# --------------------------------------------------------------------------


def sinusoids(length: int, channels: int) -> Tensor:
    """Return Whisper's fixed encoder positions, shape ``(length, channels)``."""
    scale = math.log(10000) / (channels // 2 - 1)
    rates = torch.exp(-scale * torch.arange(channels // 2))
    angles = torch.arange(length)[:, None] * rates[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


#: Initial offsets, in positions of 20 ms, at which the heads of each encoder layer look.
NEARBY = ((-3, -1, 1, 3), (-8, -3, 3, 8), (-15, -5, 5, 15))


def attend_nearby(attention: Attention, offsets: tuple[int, ...], gain: float = 2.6) -> None:
    """Initialise self-attention so that each head looks at one relative offset.

    With sinusoidal positions, q(t) = (sin wt, cos wt) and k(s) = (sin w(s-d), cos w(s-d))
    give scores that peak at s = t + d.  Whisper has to discover this from random weights,
    which takes far longer than all the rest of this training.
    """
    width = attention.q_proj.weight.shape[0]
    size, half = width // attention.heads, width // 2
    pairs = size // 2
    scale = math.log(10000) / (half - 1)
    with torch.no_grad():
        for head in range(attention.heads):
            offset = offsets[head % len(offsets)]
            q = torch.zeros(size, width)
            k = torch.zeros(size, width)
            for pair in range(pairs):  # the highest frequencies
                angle = math.exp(-scale * pair) * offset
                sin, cos = pair, half + pair
                q[2 * pair, sin] = q[2 * pair + 1, cos] = gain
                k[2 * pair, sin] = k[2 * pair + 1, cos] = gain * math.cos(angle)
                k[2 * pair, cos] = -gain * math.sin(angle)
                k[2 * pair + 1, sin] = gain * math.sin(angle)
            rows = slice(head * size, (head + 1) * size)
            attention.q_proj.weight[rows] = 0.3 * attention.q_proj.weight[rows] + q
            attention.k_proj.weight[rows] = 0.3 * attention.k_proj.weight[rows] + k


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, memory: Tensor, *, causal: bool = False, weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Let ``x`` (batch, queries, width) attend to ``memory`` (batch, keys, width).

        Also return the log attention weights (batch, heads, queries, keys) on request.
        """
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.q_proj(x), self.k_proj(memory), self.v_proj(memory))
        )
        log_weights = None
        if weights:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            log_weights = F.log_softmax(scores.float(), dim=-1)
            out = log_weights.exp().to(v.dtype) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(out.transpose(1, 2).flatten(2)), log_weights


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn = Attention(width, heads)
        self.final_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, positions, width) to the same shape."""
        y = self.self_attn_layer_norm(x)
        x = x + self.self_attn(y, y)[0]
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class DecoderLayer(EncoderLayer):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = Attention(width, heads)

    def forward(  # type: ignore[override]
        self, x: Tensor, memory: Tensor, *, weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Map ``x`` (batch, tokens, width) to the same shape; ``memory`` is (batch, positions, width)."""
        y = self.self_attn_layer_norm(x)
        x = x + self.self_attn(y, y, causal=True)[0]
        y, log_weights = self.encoder_attn(self.encoder_attn_layer_norm(x), memory, weights=weights)
        x = x + y
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))), log_weights


class Encoder(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(N_MELS, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(MAX_POSITIONS, width)
        self.embed_positions.weight = nn.Parameter(
            POSITION_SCALE * sinusoids(MAX_POSITIONS, width), requires_grad=False
        )
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, mel: Tensor, offset: int = 0) -> tuple[Tensor, Tensor]:
        """Map (batch, 80, frames) to (batch, frames / 2, width), twice.

        The first is the encoder's output, the second that of the layer before the
        last.  Training on short clips passes fewer than 3000 frames, placed
        ``offset`` positions into the 30 s window.
        """
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = before = x + self.embed_positions.weight[offset : offset + x.shape[1]]
        for layer in self.layers:
            before, x = x, layer(x)
        return self.layer_norm(x), before

    @torch.no_grad()
    def scale_convolutions(self, mel: Tensor) -> None:
        """Scale both convolutions so that their outputs start with unit deviation.

        Otherwise the positions drown the sound, and training takes long to find it.
        """
        self.conv1.weight /= self.conv1(mel).std()
        self.conv2.weight /= self.conv2(F.gelu(self.conv1(mel))).std()
        self.conv2.weight *= 1.5


class Decoder(nn.Module):
    def __init__(self, vocab: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, width)
        self.embed_positions = nn.Embedding(MAX_TOKENS, width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (batch, tokens) and (batch, positions, width) to logits and log attention.

        Logits are (batch, tokens, vocab); the attention is that of the layer before the
        last and of the last layer, (batch, heads, tokens, positions) each.
        """
        x = self.embed_tokens(tokens) + self.embed_positions.weight[: tokens.shape[1]]
        attention = []
        for index, layer in enumerate(self.layers):
            x, log_weights = layer(x, memory, weights=index >= len(self.layers) - 2)
            attention.append(log_weights)
        return self.layer_norm(x) @ self.embed_tokens.weight.T, attention[-2], attention[-1]


PHONES = sorted({phone for word in VOCABULARY for phone in demo_speech.phones(word)})


class TinyWhisper(nn.Module):
    def __init__(self, ids: Ids, width: int = 128, heads: int = 4, encoder: int = 3, decoder: int = 3) -> None:
        super().__init__()
        self.encoder = Encoder(width, heads, encoder)
        self.decoder = Decoder(ids.size, width, heads, decoder)
        # Used in training only: the word and the phone spoken at each position.
        self.word_head = nn.Linear(width, len(VOCABULARY) + 1)
        self.phone_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(PHONES) + 1))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.decoder.embed_tokens.weight, std=0.05)
        nn.init.normal_(self.decoder.embed_positions.weight, std=0.02)
        for index, layer in enumerate(self.encoder.layers):
            attend_nearby(layer.self_attn, NEARBY[index % len(NEARBY)])
        # A timestamp token starts out as a small copy of the encoder position it names.
        with torch.no_grad():
            times = sinusoids(MAX_POSITIONS + 1, width)
            self.decoder.embed_tokens.weight[ids.time0 :] = 0.07 * times


# --------------------------------------------------------------------------
# Training examples
# --------------------------------------------------------------------------


@dataclass
class Example:
    """A window of audio with its token sequence.

    ``spans[i]`` is the time span (seconds, in the clip) to which the prediction of
    ``targets[i]`` should attend, or ``None``; ``words`` are all spoken words.
    """

    audio: np.ndarray  # float32, (samples,)
    inputs: list[int]
    targets: list[int]
    spans: list[tuple[float, float] | None]
    words: list[tuple[str, float, float]]


class Composer:
    """A builder of random training windows from single utterances."""

    def __init__(self, corpus: list[Utterance], ids: Ids, seed: int) -> None:
        self.ids = ids
        self.rng = random.Random(seed)
        self.noises = []
        for slope in np.linspace(0, 1.2, 40):
            count = 40 * SAMPLE_RATE
            white = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
            spectrum = scipy.fft.rfft(white)
            spectrum *= (np.arange(len(spectrum), dtype=np.float32) + 20) ** -np.float32(slope)
            noise = scipy.fft.irfft(spectrum, count)
            self.noises.append(noise / noise.std())
        self.corpus = corpus
        self.by_voice: dict[str, list[Utterance]] = {}
        for utterance in corpus:
            self.by_voice.setdefault(utterance.voice, []).append(utterance)

    # -- audio ------------------------------------------------------------

    def _stretch(self, utterance: Utterance, rate: float, gain: float) -> tuple[np.ndarray, list]:
        """Play an utterance faster and higher (``rate`` > 1) or slower and lower."""
        audio = utterance.audio.astype(np.float32) / 32768
        count = int(len(audio) / rate)
        audio = np.interp(np.arange(count) * rate, np.arange(len(audio)), audio)
        words = [(w, a / rate, b / rate) for w, a, b in utterance.words]
        return (gain * audio).astype(np.float32), words

    def _coloured_noise(self, count: int) -> np.ndarray:
        """Return noise with a random spectral slope, unit RMS, float32 of shape ``(count,)``."""
        noise = self.noises[self.rng.randrange(len(self.noises))]
        first = self.rng.randrange(len(noise) - count)
        return noise[first : first + count]

    def _degrade(self, audio: np.ndarray) -> np.ndarray:
        """Apply random band limits, noise and level, as of codecs, telephones and rooms."""
        rng = self.rng
        count = len(audio)
        if rng.random() < 0.35:
            length = scipy.fft.next_fast_len(count, real=True)
            spectrum = scipy.fft.rfft(audio, length)
            hertz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE).astype(np.float32)
            high = rng.choice([3400, 3800, 4000, 5500, 7000])
            spectrum *= scipy.special.expit((high - hertz) / 60)
            if high < 4100 and rng.random() < 0.6:
                spectrum *= scipy.special.expit((hertz - rng.uniform(150, 320)) / 30)
            audio = scipy.fft.irfft(spectrum, length)[:count]
        if rng.random() < 0.25:  # spectral tilt
            audio = np.append(audio[:1], audio[1:] - np.float32(rng.uniform(-0.5, 0.6)) * audio[:-1])
        if rng.random() < 0.65:
            level = np.sqrt(np.mean(audio**2) + 1e-9) * 10 ** (-rng.uniform(12, 50) / 20)
            audio = audio + level * self._coloured_noise(count)
        peak = np.abs(audio).max() + 1e-9
        return (audio * (10 ** rng.uniform(-1.3, 0) / peak)).astype(np.float32)

    def _silence(self, seconds: float) -> np.ndarray:
        """Return a window without speech: digital silence, noise, hum or clicks."""
        rng = self.rng
        count = int(seconds * SAMPLE_RATE)
        kind = rng.random()
        if kind < 0.3:
            return np.zeros(count, np.float32)
        audio = 10 ** rng.uniform(-4.5, -1) * self._coloured_noise(count)
        if kind > 0.75:
            times = np.arange(count) / SAMPLE_RATE
            tone = np.sin(2 * np.pi * rng.uniform(50, 2000) * times)
            audio += (10 ** rng.uniform(-3, -0.7) * tone).astype(np.float32)
        if kind > 0.9:
            for _ in range(rng.randint(1, 20)):
                audio[rng.randrange(count)] += rng.uniform(-0.5, 0.5)
        return audio.astype(np.float32)

    # -- tokens -----------------------------------------------------------

    def _previous_text(self, longest: int) -> list[int]:
        """Return random previous text, as ``condition_on_previous_text`` and prompts supply it."""
        ids, rng = self.ids, self.rng
        tokens, clock, timed = [], rng.uniform(0, 2), rng.random() < 0.7
        for _ in range(rng.randint(1, longest)):
            utterance = rng.choice(self.corpus)
            words = [ids.word[w] for w, _, _ in utterance.words]
            if timed:
                words = [ids.time(clock), *words, ids.time(clock + utterance.duration)]
            tokens += words
            clock += utterance.duration + rng.uniform(0.4, 2)
        return tokens

    def example(self, seconds: float, offset: float = 0.0, *, dense: bool = False) -> Example:
        """Return a random window of at most ``seconds``, placed ``offset`` seconds into the 30 s.

        ``dense`` windows have hardly any pauses.
        """
        ids, rng = self.ids, self.rng
        timestamps = rng.random() < 0.6
        full = rng.random() < 0.92  # else without language and task, as for English-only models
        segments: list[list[tuple[str, float, float]]] = []
        next_start = None
        if rng.random() < 0.04:
            audio = self._silence(rng.uniform(0.5, seconds))
        else:
            audio, segments, next_start = self._speech(seconds, timestamps=timestamps, dense=dense)

        inputs = [ids.sot]
        if full:
            language = "en" if rng.random() < 0.93 else rng.choice(LANGUAGES)
            task = ids.transcribe if rng.random() < 0.93 else ids.translate
            inputs += [ids.language[language], task]
        if not timestamps:
            inputs.append(ids.notimestamps)
        targets: list[int] = [IGNORE] * (len(inputs) - 1)
        spans: list[tuple[float, float] | None] = [None] * (len(inputs) - 1)
        output = self._answer(segments, next_start, offset, timestamps=timestamps)
        targets += [token for token, _ in output]
        spans += [span for _, span in output]
        inputs += targets[len(inputs) - 1 : -1]
        # What <|startoftranscript|> predicts.
        if full:
            targets[0] = ids.language["en"]
        if not segments and next_start is None and (full or not timestamps or rng.random() < 0.85):
            targets[0] = ids.nospeech
        if rng.random() < 0.25:
            # Long prompts cost time, so only long windows have them.
            text = self._previous_text(60 if seconds >= 15 and rng.random() < 0.3 else 9)
            previous = [ids.prev, *text[-(MAX_TOKENS // 2 - 1) :]]
            inputs = previous + inputs
            targets = [IGNORE] * len(previous) + targets
            spans = [None] * len(previous) + spans
        words = [word for segment in segments for word in segment]
        return Example(audio, inputs[:MAX_TOKENS], targets[:MAX_TOKENS], spans[:MAX_TOKENS], words)

    def _answer(
        self,
        segments: list[list[tuple[str, float, float]]],
        next_start: float | None,
        offset: float,
        *,
        timestamps: bool,
    ) -> list[tuple[int, tuple[float, float] | None]]:
        """Return the tokens to write for a window, each with the time span that it is about.

        ``offset`` is where the window lies in the 30 s, in seconds.
        """
        ids = self.ids
        output: list[tuple[int, tuple[float, float] | None]] = []
        for segment in segments:
            start, end = segment[0][1], segment[-1][2]
            if timestamps:
                output.append((ids.time(offset + start), (start - 0.04, start + 0.1)))
            output += [(ids.word[w], (a, b)) for w, a, b in segment]
            if timestamps:
                output.append((ids.time(offset + end), (end - 0.1, end + 0.04)))
        if next_start is not None:
            output.append((ids.time(offset + next_start), (next_start - 0.04, next_start + 0.1)))
        last = segments[-1][-1][2] if segments else 0.0
        if not segments and next_start is None and timestamps:
            output.append((ids.time0, None))
        output.append((ids.eot, (last, last + 0.3) if segments else None))
        return output

    def _speech(
        self, seconds: float, *, timestamps: bool, dense: bool
    ) -> tuple[np.ndarray, list[list[tuple[str, float, float]]], float | None]:
        """Join utterances with pauses between them and degrade the result.

        Returns the audio, the words of each utterance, and the start of an utterance
        that the end of the window cuts off, if any.
        """
        rng = self.rng
        wanted = seconds if dense or rng.random() < 0.5 else rng.uniform(0.1, 1) * seconds
        one_voice = rng.random() < 0.7
        voice = self.by_voice[rng.choice(self.corpus).voice]
        rate, gain = rng.uniform(0.87, 1.15), 1.0
        clock = rng.choice([0.0, rng.uniform(0, 0.6), rng.uniform(0, 0.6), rng.uniform(0, 2)])
        clock = rng.uniform(0, 0.3) if dense else clock
        cut_off = seconds >= 29.9 and timestamps and rng.random() < 0.7
        longest = rng.choice([0.8, 1.2, 2.5])
        chunks, segments, next_start = [], [], None
        position = 0
        for attempt in range(200):
            if not one_voice:
                voice = self.by_voice[rng.choice(self.corpus).voice]
                rate, gain = rng.uniform(0.87, 1.15), rng.uniform(0.4, 1)
            audio, words = self._stretch(rng.choice(voice), rate, gain)
            duration = len(audio) / SAMPLE_RATE
            if clock + duration > min(wanted, seconds) and not cut_off:
                if segments or attempt < 20:
                    if segments:
                        break
                    clock = 0.0
                    wanted = seconds
                    continue
                break
            start = int(clock * SAMPLE_RATE)
            chunks.append(np.zeros(start - position, np.float32))
            chunks.append(audio)
            position = start + len(audio)
            if clock + duration > seconds:
                next_start = clock if clock < seconds - 0.1 else None
                break
            segments.append([(w, clock + a, clock + b) for w, a, b in words])
            clock += duration + (rng.uniform(0.1, 0.5) if dense else rng.uniform(0.4, longest))
        tail = max(0.0, rng.choice([0.0, rng.uniform(0, 0.5), rng.uniform(0, 2)]))
        chunks.append(np.zeros(int(tail * SAMPLE_RATE), np.float32))
        audio = np.concatenate(chunks)[: int(seconds * SAMPLE_RATE)]
        return self._degrade(audio), segments, next_start


class LogMel:
    """faster-whisper's log-Mel features, computed for a padded batch with torch."""

    def __init__(self) -> None:
        self.filters = torch.from_numpy(FeatureExtractor(feature_size=N_MELS).mel_filters)
        self.window = torch.from_numpy(np.hanning(401)[:-1].astype("float32"))
        probe = np.random.default_rng(0).standard_normal(48000).astype("float32") * 0.1
        expected = FeatureExtractor(feature_size=N_MELS)(probe)[:, :300]
        error = np.abs(self([probe], 300)[0].numpy() - expected)[:, :-3].max()
        if not error < 1e-3:
            raise ValueError(f"features differ from faster-whisper's by {error}")

    def __call__(self, clips: list[np.ndarray], frames: int) -> Tensor:
        """Map clips of at most ``frames`` hops to (batch, 80, frames), zero after each clip."""
        batch = torch.zeros(len(clips), frames * 160 + 160)
        for row, clip in zip(batch, clips, strict=True):
            row[: len(clip)] = torch.from_numpy(clip)
        stft = torch.stft(batch, 400, 160, window=self.window, return_complex=True)
        power = torch.view_as_real(stft[..., :frames]).square().sum(-1)
        mel = (self.filters @ power).clamp_min(1e-10).log10()
        mel = torch.maximum(mel, mel.amax(dim=(1, 2), keepdim=True) - 8.0)
        mel = (mel + 4.0) / 4.0
        lengths = torch.tensor([len(clip) // 160 for clip in clips])
        return mel * (torch.arange(frames) < lengths[:, None, None])


@dataclass
class Batch:
    mel: Tensor  # (batch, 80, frames)
    inputs: Tensor  # (batch, tokens)
    targets: Tensor  # (batch, tokens), IGNORE where there is nothing to predict
    spans: Tensor  # (batch, tokens, 2): first and past-the-last encoder position; -1: none
    words: Tensor  # (batch, positions): 0 or 1 + index of the word being spoken
    phones: Tensor  # (batch, positions): 0 or 1 + index of the phone being spoken
    offset: int  # encoder position of the first frame


class BatchStream(torch.utils.data.IterableDataset):
    """Endless batches whose window length follows a schedule over training progress."""

    def __init__(self, corpus: list[Utterance], seed: int, batch_seconds: float) -> None:
        self.corpus, self.seed, self.batch_seconds = corpus, seed, batch_seconds
        self.progress = torch.zeros(1).share_memory_()

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        torch.set_num_threads(1)
        ids, mel = Ids(build_tokenizer()), LogMel()
        composer = Composer(self.corpus, ids, self.seed + (worker.id if worker else 0))
        rng = composer.rng
        word_index = {word: index + 1 for index, word in enumerate(VOCABULARY)}
        phone_index = {phone: index + 1 for index, phone in enumerate(PHONES)}
        while True:
            seconds = self._window(float(self.progress), rng)
            positions = int(seconds / FRAME)
            offset, padded = 0, positions
            kind = rng.random()
            if seconds < 30 and kind < 0.3:
                offset = rng.randrange(MAX_POSITIONS - positions)
            elif seconds < 30 and kind < 0.6:  # a short recording, padded as at inference
                padded = rng.randrange(positions, MAX_POSITIONS)
            count = max(3, int(self.batch_seconds / (padded * FRAME)))
            dense = float(self.progress) < ENCODER_ONLY
            examples = [composer.example(seconds, offset * FRAME, dense=dense) for _ in range(count)]
            positions = padded
            width = max(len(e.inputs) for e in examples)
            inputs = torch.full((count, width), ids.eot)
            targets = torch.full((count, width), IGNORE)
            spans = torch.full((count, width, 2), -1)
            words = torch.zeros((count, positions), dtype=torch.long)
            phones = torch.zeros((count, positions), dtype=torch.long)
            for row, e in enumerate(examples):
                inputs[row, : len(e.inputs)] = torch.tensor(e.inputs)
                targets[row, : len(e.targets)] = torch.tensor(e.targets)
                for column, span in enumerate(e.spans):
                    if span is not None:
                        first = min(max(int(span[0] / FRAME), 0), positions - 1)
                        last = min(max(int(span[1] / FRAME) + 1, first + 1), positions)
                        spans[row, column] = torch.tensor([first, last])
                for word, start, end in e.words:
                    words[row, int(start / FRAME) : int(end / FRAME) + 1] = word_index[word]
                    # No phone times are known for most voices: share the word equally.
                    spoken = demo_speech.phones(word)
                    for index, phone in enumerate(spoken):
                        first = start + (end - start) * index / len(spoken)
                        last = start + (end - start) * (index + 1) / len(spoken)
                        phones[row, round(first / FRAME) : round(last / FRAME)] = phone_index[phone]
            clips = [e.audio for e in examples]
            yield Batch(mel(clips, 2 * positions), inputs, targets, spans, words, phones, offset)

    @staticmethod
    def _window(progress: float, rng: random.Random) -> float:
        """Return the window length in seconds: single phrases first, whole 30 s windows at last."""
        if progress < ENCODER_ONLY:
            return rng.choice([4.0, 6.0])
        if progress < 0.22:
            return rng.choice([3.0, 4.0, 6.0])
        if progress < 0.4:
            return rng.choice([4.0, 6.0, 10.0, 15.0])
        if progress < 0.65:
            return rng.choice([5.0, 10.0, 20.0, 30.0])
        return rng.choice([6.0, 10.0, 15.0, 30.0, 30.0])


# --------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------

ENCODER_ONLY = 0.14  # share of the training during which the decoder waits
TIME_BLUR = torch.tensor([0.02, 0.13, 0.7, 0.13, 0.02])  # soft targets around a timestamp


def speech_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of (batch, positions, classes); silence (class 0) counts less.

    Also return the share of speech positions that were classified correctly.
    """
    logits, labels = logits.flatten(0, 1).float(), labels.flatten()
    weights = torch.where(labels > 0, 1.0, 0.25)
    loss = F.cross_entropy(logits, labels, reduction="none") @ weights / weights.sum()
    speech = labels > 0
    return loss, (logits[speech].argmax(-1) == labels[speech]).float().mean()


def attention_loss(log_weights: Tensor, spans: Tensor) -> Tensor:
    """Pull the guided heads' attention into the spans.

    ``log_weights`` (batch, heads, tokens, positions), ``spans`` (batch, tokens, 2).
    """
    has_span = spans[..., 0] >= 0
    weights = log_weights[:, list(GUIDED_HEADS)].transpose(1, 2)[has_span].exp()
    edges = spans[has_span]  # (n, 2); weights: (n, 2, positions)
    if not len(edges):
        return torch.zeros(())
    positions = torch.arange(weights.shape[-1])
    inside = (positions >= edges[:, :1]) & (positions < edges[:, 1:])
    return -((weights * inside[:, None]).sum(-1) + 1e-4).log().mean()


def losses(model: TinyWhisper, batch: Batch, ids: Ids, *, decode: bool) -> dict[str, Tensor]:
    """Return the training losses, and the share of words and tokens predicted correctly.

    Without ``decode``, only the encoder is trained.
    """
    memory, before = model.encoder(batch.mel, batch.offset)
    word, heard = speech_loss(model.word_head(memory), batch.words)
    phone, _ = speech_loss(model.phone_head(before), batch.phones)
    parts = {"word": word, "phone": phone, "heard": heard}
    if not decode:
        return parts
    logits, attention_before, attention = model.decoder(batch.inputs, memory)
    log_probs = F.log_softmax(logits.float(), dim=-1)
    is_time = batch.targets >= ids.time0
    is_text = (batch.targets != IGNORE) & ~is_time
    text = log_probs[is_text].gather(1, batch.targets[is_text][:, None])
    around = batch.targets[is_time][:, None] + torch.arange(-2, 3)
    around = around.clamp(ids.time0, ids.time0 + MAX_POSITIONS)
    times = log_probs[is_time].gather(1, around) @ TIME_BLUR
    token = -(text.sum() + times.sum()) / (len(text) + len(times))

    # The last layer looks at what is written next, the one before at what came last.
    align = attention_loss(attention, batch.spans)
    align_last = attention_loss(attention_before[:, :, 1:], batch.spans[:, :-1])
    correct = (log_probs[is_text].argmax(-1) == batch.targets[is_text]).float().mean()
    parts |= {"token": token, "align": align, "align_last": align_last}
    return {**parts, "correct": correct}


def train(args: argparse.Namespace, corpus: list[Utterance]) -> TinyWhisper:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    ids = Ids(build_tokenizer())
    model = TinyWhisper(ids, args.width, args.heads, args.encoder_layers, args.decoder_layers)
    checkpoint = Path(args.work_dir) / "checkpoint.pt"
    if args.resume:
        model.load_state_dict(torch.load(args.resume)["model"])
    else:
        model.encoder.scale_convolutions(next(iter(BatchStream(corpus, 0, 30))).mel)
        torch.set_num_threads(args.threads)
    trainable = [p for p in model.parameters() if p.requires_grad]
    logger.info("%.2f M parameters", sum(p.numel() for p in trainable) / 1e6)
    optimizer = torch.optim.AdamW(trainable, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    stream = BatchStream(corpus, args.seed, args.batch_seconds)
    loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=args.workers, prefetch_factor=4)
    begun = shown = time.monotonic()
    averages: dict[str, float] = {}
    for step, batch in enumerate(loader):
        progress = (time.monotonic() - begun) / (60 * args.minutes)
        if args.steps:
            progress = step / args.steps
        if progress >= 1:
            break
        progress = args.start + (1 - args.start) * progress
        stream.progress.fill_(progress)
        warm = min(1.0, (step + 1) / args.warmup)
        decay = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm * decay
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            parts = losses(model, batch, ids, decode=progress >= ENCODER_ONLY)
        loss = (1 - 0.7 * progress) * (parts["word"] + 0.5 * parts["phone"])
        if "token" in parts:
            loss = loss + parts["token"] + 0.5 * parts["align"] + 0.25 * parts["align_last"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        for name, value in parts.items():
            averages[name] = 0.98 * averages.get(name, value.item()) + 0.02 * value.item()
        if time.monotonic() - shown > args.report:
            shown = time.monotonic()
            summary = "  ".join(f"{name} {value:.3f}" for name, value in averages.items())
            logger.info("%5d s  step %6d  %3.0f %%  %s", shown - begun, step + 1, 100 * progress, summary)
            torch.save({"model": model.state_dict()}, checkpoint)
    torch.save({"model": model.state_dict()}, checkpoint)
    return model


# --------------------------------------------------------------------------
# Export
# --------------------------------------------------------------------------


def export(model: TinyWhisper, output: str | Path, quantization: str = "int8") -> None:
    """Write the CTranslate2 model directory that faster-whisper loads."""
    from ctranslate2.converters.transformers import WhisperLoader
    from ctranslate2.specs.whisper_spec import WhisperSpec

    tokenizer = build_tokenizer()
    ids = Ids(tokenizer)
    encoder, decoder = model.encoder, model.decoder
    spec = WhisperSpec(
        len(encoder.layers),
        encoder.layers[0].self_attn.heads,
        len(decoder.layers),
        decoder.layers[0].self_attn.heads,
    )
    loader = WhisperLoader()
    projection = nn.Linear(decoder.embed_tokens.embedding_dim, ids.size, bias=False)
    projection.weight = decoder.embed_tokens.weight
    with torch.no_grad():
        loader.set_encoder(spec.encoder, encoder)
        loader.set_decoder(spec.decoder, decoder)
        loader.set_linear(spec.decoder.projection, projection)
    vocabulary = [tokenizer.id_to_token(i) for i in range(ids.size)]
    # CTranslate2 takes a model for multilingual if its vocabulary has an empty token.
    # The byte 0, which nothing uses, lends its name (the tokenizer is unaffected).
    vocabulary[tokenizer.token_to_id("\u0100")] = ""
    spec.register_vocabulary(vocabulary)
    # Only words of the vocabulary, the end of text and timestamps can be written.
    words = set(ids.word.values())
    spec.config.suppress_ids = [i for i in range(ids.time0) if i not in words and i != ids.eot]
    spec.config.suppress_ids_begin = []  # a window without speech may end at once
    # All heads of the last layer align; together they do better than the supervised two.
    last = decoder.layers[-1].encoder_attn
    spec.config.alignment_heads = [[len(decoder.layers) - 1, h] for h in range(last.heads)]
    spec.config.lang_ids = sorted(ids.language.values())
    spec.validate()
    spec.optimize(quantization=quantization)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "chunk_length": 30,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": N_MELS,
        "hop_length": 160,
        "n_fft": 400,
        "n_samples": 480000,
        "nb_max_frames": 3000,
        "sampling_rate": SAMPLE_RATE,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work-dir", default=WORK_DIR, help="corpus and checkpoints")
    parser.add_argument("--output", default=MODEL_DIR, help="CTranslate2 model directory to write")
    parser.add_argument("--utterances", type=int, default=16000, help="size of the corpus")
    parser.add_argument("--minutes", type=float, default=60, help="training time")
    parser.add_argument("--steps", type=int, default=0, help="training steps, instead of --minutes")
    parser.add_argument("--start", type=float, default=0.0, help="schedule position to start from")
    parser.add_argument("--resume", help="checkpoint whose weights to start from")
    parser.add_argument("--export-only", action="store_true", help="convert --resume and stop")
    parser.add_argument("--quantization", default="int8")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--encoder-layers", type=int, default=3)
    parser.add_argument("--decoder-layers", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1.7e-3)
    parser.add_argument("--warmup", type=int, default=200, help="steps of learning-rate warm-up")
    parser.add_argument("--batch-seconds", type=float, default=120, help="audio per batch")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="mixed precision")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--report", type=float, default=30, help="seconds between reports")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    if args.export_only:
        model = TinyWhisper(Ids(build_tokenizer()), args.width, args.heads, args.encoder_layers, args.decoder_layers)
        model.load_state_dict(torch.load(args.resume)["model"])
        export(model, args.output, args.quantization)
        return
    work = Path(args.work_dir)
    work.mkdir(parents=True, exist_ok=True)
    path = work / "train.npz"
    if not path.exists():
        logger.info("synthesizing %d utterances", args.utterances)
        counts = {v: round(args.utterances * s) for v, s in demo_speech.TRAIN_SHARES.items()}
        demo_speech.save_corpus(str(path), demo_speech.build_corpus(counts, args.seed, workers=args.threads))
    corpus = demo_speech.load_corpus(str(path))
    hours = sum(u.duration for u in corpus) / 3600
    logger.info("%d utterances, %.1f h of speech", len(corpus), hours)
    model = train(args, corpus)
    export(model, args.output, args.quantization)


if __name__ == "__main__":
    main()
