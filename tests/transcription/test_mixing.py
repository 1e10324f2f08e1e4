"""Channels are mixed as FFmpeg mixes them, unless they cancel each other out or are no loudspeakers."""

from __future__ import annotations

import shutil
import wave
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from faster_whisper import decode_audio

from app.domain.errors import AudioTooLong, UndecodableAudio
from app.domain.transcript import TranscriptionOptions
from app.transcription.decoding import Decoder
from app.transcription.transcriber import Listener
from tests.support.audio import RATE, encode, likeness, read_samples, silence, sine, sweep
from tests.support.engines import transcribing

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.audio import Samples

pytestmark = pytest.mark.anyio


def write_wave(path: Path, *channels: Samples) -> Path:
    with wave.open(str(path), "wb") as writer:
        writer.setparams((len(channels), 2, RATE, 0, "NONE", ""))
        writer.writeframes(np.stack(channels, axis=1).astype("<i2").tobytes())
    return path


def mixed_by_ffmpeg(path: Path) -> Samples:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(str(path)) as container:
        frames = [mixed for frame in container.decode(audio=0) for mixed in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.int16)


def noise(seconds: float, *, amplitude: float, seed: int) -> Samples:
    random = np.random.default_rng(seed)
    return (random.standard_normal(round(seconds * RATE)) * amplitude * 32_767).astype(np.int16)


SPEECH = np.concatenate([sweep(2), silence(1), sweep(3), silence(1), sweep(2)]) // 2
ROOM = noise(9, amplitude=0.05, seed=1)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        pytest.param(SPEECH, SPEECH, id="same"),
        pytest.param(SPEECH, 0 * SPEECH, id="left only"),
        pytest.param(SPEECH, noise(9, amplitude=0.1, seed=2), id="independent"),
        pytest.param(SPEECH + ROOM, SPEECH - ROOM, id="wide, the room alone in pauses"),
        pytest.param(SPEECH // 3 + 4 * ROOM, SPEECH // 3 + noise(9, amplitude=0.2, seed=3), id="noisy"),
        pytest.param(ROOM, np.roll(ROOM, 13), id="two microphones, 28 cm apart"),
        pytest.param(0 * SPEECH, 0 * SPEECH, id="silent"),
        pytest.param(noise(9, amplitude=1e-4, seed=4), -noise(9, amplitude=1e-4, seed=4), id="cancelled noise"),
    ],
)
async def test_ordinary_stereo_is_mixed_bit_for_bit_by_ffmpeg(
    left: Samples, right: Samples, decoder: Decoder, tmp_path: Path
) -> None:
    source = write_wave(tmp_path / "source", left, right)
    decoded = await decoder.decode(source, tmp_path / "pcm")
    np.testing.assert_array_equal(read_samples(decoded.pcm), mixed_by_ffmpeg(source))
    assert decoded.cancelled_seconds == 0


@pytest.mark.parametrize(
    ("codec", "layout"),
    [("pcm_s16le", "stereo"), ("pcm_u8", "stereo"), ("flac", "5.1"), ("libopus", "stereo"), ("wavpack", "7.1")],
)
@pytest.mark.parametrize("gain", [1.0, 0.9])
@pytest.mark.parametrize("rate", [RATE, 48_000])
async def test_channels_that_cancel_each_other_are_replaced_by_the_louder_one(
    codec: str, layout: str, gain: float, rate: int, decoder: Decoder, tmp_path: Path
) -> None:
    background = [noise(9, amplitude=0.003, seed=seed) for seed in range(8)]
    channels = background[: av.AudioLayout(layout).nb_channels]
    channels[0], channels[1] = channels[0] + SPEECH, channels[1] - (gain * SPEECH).astype(np.int16)
    source = encode(
        tmp_path / "source", np.stack(channels, axis=1), container="matroska", codec=codec, rate=rate, layout=layout
    )

    decoded = await decoder.decode(source, tmp_path / "pcm")

    samples = read_samples(decoded.pcm)
    assert len(samples) == pytest.approx(len(SPEECH), abs=0.05 * RATE)
    assert likeness(samples, SPEECH) > 0.98
    assert decoded.cancelled_seconds == pytest.approx(9, abs=0.1)
    assert np.abs(samples).max() == pytest.approx(np.abs(SPEECH).max(), rel=0.08)


async def test_only_the_part_that_cancels_is_replaced(decoder: Decoder, tmp_path: Path) -> None:
    """Music in stereo, then a voice from a microphone with reversed polarity, then a voice in both channels."""
    music = noise(6, amplitude=0.15, seed=5)
    left = np.concatenate([music, SPEECH, SPEECH, SPEECH])
    right = np.concatenate([np.roll(music, 5000), -SPEECH, SPEECH, 0 * SPEECH])
    decoded = await decoder.decode(write_wave(tmp_path / "source", left, right), tmp_path / "pcm")

    samples = read_samples(decoded.pcm)
    assert len(samples) == len(left)
    assert likeness(samples[: 6 * RATE], (music // 2 + np.roll(music, 5000) // 2)) > 0.99
    assert likeness(samples[6 * RATE : 15 * RATE], SPEECH) > 0.9
    assert likeness(samples[15 * RATE : 24 * RATE], SPEECH) > 0.99
    assert likeness(samples[24 * RATE :], SPEECH) > 0.99
    assert 5 < decoded.cancelled_seconds < 15
    assert np.abs(np.diff(samples.astype(int))).max() <= np.abs(np.diff(left.astype(int))).max()


@pytest.mark.parametrize("channels", [3, 6, 8, 9, 10, 12, 16, 17, 24, 31, 32])
async def test_no_channel_of_a_mixer_is_left_out(channels: int, decoder: Decoder, tmp_path: Path) -> None:
    """Take apart what FFmpeg would: channel 4 of 6 is no subwoofer, and it has no mix at all for 9 or 32 channels."""
    sounds = [sine(1, frequency=300 + 100 * channel) for channel in range(channels)]
    source = write_wave(tmp_path / "source", *sounds)

    mixed = read_samples((await decoder.decode(source, tmp_path / "mixed")).pcm)
    each = await decoder.decode(source, tmp_path / "each", separate_channels=True)

    np.testing.assert_allclose(mixed, np.mean(sounds, axis=0), atol=channels)
    assert each.channels == channels
    np.testing.assert_array_equal(read_samples(each.pcm).reshape(-1, channels), np.stack(sounds, axis=1))


@pytest.mark.parametrize(("layout", "codec"), [("7.1", "pcm_s16le"), ("7.1", "wavpack"), ("32 channels", "wavpack")])
@pytest.mark.parametrize("separate_channels", [False, True])
async def test_many_channels_in_planes_are_decoded(
    layout: str, codec: str, decoder: Decoder, tmp_path: Path, *, separate_channels: bool
) -> None:
    sound = np.stack([sweep(2)] * av.AudioLayout(layout).nb_channels, axis=1)
    source = encode(tmp_path / "source", sound, container="matroska", codec=codec, layout=layout)
    decoded = await decoder.decode(source, tmp_path / "pcm", separate_channels=separate_channels)
    assert likeness(read_samples(decoded.pcm)[:: decoded.channels], sweep(2)) > 0.99


@pytest.mark.parametrize("separate_channels", [False, True])
async def test_more_channels_than_allowed_are_refused_with_a_remedy(
    decoder: Decoder, tmp_path: Path, *, separate_channels: bool
) -> None:
    source = write_wave(tmp_path / "source", *[SPEECH] * 33)
    with pytest.raises(UndecodableAudio) as caught:
        await decoder.decode(source, tmp_path / "pcm", separate_channels=separate_channels)
    assert str(caught.value) == (
        "The file must have 1 to 32 channels, got 33: mix some of them, or send them in several files."
    )


async def test_many_channels_may_take_as_much_space_as_eight(tmp_path: Path) -> None:
    decoder = Decoder(max_seconds=8)
    short, long = (write_wave(tmp_path / str(seconds), *[sweep(seconds)] * 32) for seconds in (2, 3))
    assert (await decoder.decode(short, tmp_path / "pcm", separate_channels=True)).duration == 2
    assert (await decoder.decode(long, tmp_path / "pcm")).duration == 3
    with pytest.raises(AudioTooLong) as caught:
        await decoder.decode(long, tmp_path / "pcm", separate_channels=True)
    assert str(caught.value) == (
        "With `multichannel`, audio with 32 channels must not be longer than 2 s: split it, leave `multichannel` out, "
        "or raise MAX_AUDIO_SECONDS."
    )


@pytest.mark.parametrize("separate_channels", [False, True])
@pytest.mark.full(reason="takes more than a second")
async def test_most_channels_at_the_highest_rate_fit_into_memory(
    decoder: Decoder, tmp_path: Path, *, separate_channels: bool
) -> None:
    sound = np.stack([sweep(2)] * 32, axis=1)
    source = encode(tmp_path / "source", sound, container="w64", codec="pcm_f64le", rate=384_000, layout="32 channels")
    decoded = await decoder.decode(source, tmp_path / "pcm", separate_channels=separate_channels)
    assert decoded.duration == pytest.approx(2, abs=0.01)


@pytest.mark.full(reason="takes more than a second")
async def test_channels_of_a_mixer_are_transcribed_each(
    model: WhisperModel, decoder: Decoder, samples: Path, tmp_path: Path
) -> None:
    hello = (decode_audio(str(samples / "hello.wav")) * 32767).astype(np.int16)
    channels = [hello if channel in (3, 15, 31) else 0 * hello for channel in range(32)]
    source = write_wave(tmp_path / "audio", *channels)
    options = TranscriptionOptions(multichannel=True, language="en")
    async with transcribing(model, decoder) as transcriber:
        transcript = await transcriber.transcribe(source, options, listener=Listener())
    texts: dict[int | None, str] = {}
    for segment in transcript.segments:
        texts[segment.channel] = texts.get(segment.channel, "") + segment.text
    assert texts == dict.fromkeys((3, 15, 31), " hello this is a test the job is complete now")


@pytest.mark.full(reason="takes more than a second")
async def test_cancelled_speech_is_transcribed_with_a_warning(
    model: WhisperModel, decoder: Decoder, samples: Path, tmp_path: Path
) -> None:
    hello = (decode_audio(str(samples / "hello.wav")) * 32767).astype(np.int16)
    source = write_wave(tmp_path / "audio", hello, -hello)
    async with transcribing(model, decoder) as transcriber:
        transcript = await transcriber.transcribe(source, TranscriptionOptions(), listener=Listener())
        each = await transcriber.transcribe(
            source, TranscriptionOptions(multichannel=True, language="en"), listener=Listener()
        )
        shutil.copy(samples / "hello.wav", source)
        mono = await transcriber.transcribe(source, TranscriptionOptions(), listener=Listener())
    assert transcript.text == mono.text == "hello this is a test the job is complete now"
    (warning,) = transcript.warnings
    assert warning.startswith("For 5.2 s the channels of the recording cancel each other out")
    assert {segment.channel for segment in each.segments} == {0, 1}
    assert each.warnings == mono.warnings == ()
