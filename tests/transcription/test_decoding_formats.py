"""Every supported format is decoded to 16 kHz mono PCM of the right length and content."""

from __future__ import annotations

import json
import wave
from typing import TYPE_CHECKING, Any, NamedTuple

import av
import numpy as np
import pytest

from app.domain.errors import UndecodableAudio
from app.transcription.decoding import Decoder
from tests.support.audio import RATE, SAMPLES, encode, likeness, read_samples, silence, sine, sweep, two_tracks
from tests.support.originals import dss_dictation, raw_gsm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio


class Kind(NamedTuple):
    container: str
    codec: str
    rate: int = RATE
    layout: str = "mono"
    video: str | None = None
    bit_rate: int | None = None

    def __str__(self) -> str:
        return "-".join(str(part) for part in self if part)


KINDS = [
    Kind("wav", "pcm_s16le"),
    Kind("wav", "pcm_u8"),
    Kind("wav", "pcm_s24le"),
    Kind("wav", "pcm_s32le"),
    Kind("wav", "pcm_f32le"),
    Kind("wav", "pcm_f64le"),
    Kind("wav", "pcm_mulaw", rate=8_000),
    Kind("wav", "pcm_alaw", rate=8_000),
    Kind("wav", "adpcm_ima_wav"),
    Kind("wav", "adpcm_ms"),
    Kind("wav", "g722"),
    Kind("wav", "libmp3lame"),
    Kind("mp3", "libmp3lame"),
    Kind("mp3", "libmp3lame", rate=44_100, layout="stereo"),
    Kind("mp2", "mp2", rate=48_000),
    Kind("flac", "flac", rate=44_100),
    Kind("ogg", "vorbis", rate=44_100, layout="stereo"),
    Kind("ogg", "libopus", rate=48_000),
    Kind("ogg", "flac"),
    Kind("webm", "libopus", rate=48_000),
    Kind("webm", "vorbis", layout="stereo"),
    Kind("matroska", "libopus", rate=48_000),
    Kind("matroska", "aac"),
    Kind("matroska", "flac"),
    Kind("matroska", "pcm_s16le"),
    Kind("ipod", "aac", rate=44_100),
    Kind("ipod", "alac"),
    Kind("mp4", "aac", rate=48_000),
    Kind("mp4", "libopus", rate=48_000),
    Kind("mp4", "flac"),
    Kind("mov", "pcm_s16be"),
    Kind("mov", "aac"),
    Kind("3gp", "libopencore_amrnb", rate=8_000),
    Kind("amr", "libopencore_amrnb", rate=8_000),
    Kind("adts", "aac", rate=44_100),
    Kind("aiff", "pcm_s16be", rate=44_100),
    Kind("au", "pcm_s16be"),
    Kind("au", "pcm_mulaw", rate=8_000),
    Kind("caf", "pcm_s16be"),
    Kind("caf", "alac"),
    Kind("caf", "pcm_mulaw", rate=8_000),
    Kind("caf", "adpcm_ima_qt"),
    Kind("caf", "pcm_f32le"),
    Kind("aiff", "pcm_mulaw", rate=8_000),
    Kind("aiff", "pcm_alaw", rate=8_000),
    Kind("aiff", "pcm_f32be"),
    Kind("aiff", "adpcm_ima_qt"),
    Kind("mov", "adpcm_ima_qt"),
    Kind("wav", "g726", rate=8_000),
    Kind("w64", "pcm_s16le"),
    Kind("asf", "wmav1", bit_rate=32_000),
    Kind("asf", "wmav2", bit_rate=32_000),
    Kind("avi", "libmp3lame", rate=44_100),
    Kind("flv", "aac", rate=44_100),
    Kind("mpegts", "aac", rate=48_000),
    Kind("mpegts", "mp2", rate=48_000),
    Kind("mpegts", "ac3", rate=48_000),
    Kind("mpeg", "mp2", rate=48_000),
    Kind("ac3", "ac3", rate=48_000, bit_rate=96_000),
    Kind("eac3", "eac3", rate=48_000, bit_rate=96_000),
    Kind("wv", "wavpack"),
    Kind("tta", "tta", rate=44_100),
    Kind("voc", "pcm_s16le"),
    Kind("mp4", "aac", rate=44_100, video="libx264"),
    Kind("webm", "libopus", rate=48_000, video="libvpx"),
    Kind("matroska", "libopus", rate=48_000, video="libx264"),
    Kind("avi", "libmp3lame", rate=44_100, video="mpeg4"),
    Kind("mpegts", "aac", rate=48_000, video="libx264"),
    Kind("flv", "aac", rate=44_100, video="flv"),
]


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """A decoder for all tests, which each start a process of its server."""
    decoder = Decoder(max_seconds=3600)
    yield decoder
    decoder.close()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.full(reason="decodes dozens of files")
async def test_format_is_decoded(kind: Kind, decoder: Decoder, tmp_path: Path) -> None:
    sound = sweep(3)
    source = encode(tmp_path / "source", sound, **kind._asdict())

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.duration == pytest.approx(3.0, abs=0.1)
    assert decoded.samples == len(read_samples(decoded.pcm))
    assert decoded.corrupt_frames == 0
    assert likeness(read_samples(decoded.pcm), sound) > 0.97


@pytest.mark.parametrize(
    ("bits", "dtype"), [pytest.param("01", "<i2", id="little-endian"), pytest.param("10", ">i2", id="big-endian")]
)
async def test_sphere_is_decoded(bits: str, dtype: str, decoder: Decoder, tmp_path: Path) -> None:
    sound = sweep(2)
    fields = (
        f"channel_count -i 1\nsample_count -i {len(sound)}\nsample_rate -i {RATE}\nsample_n_bytes -i 2\n"
        f"sample_byte_format -s2 {bits}\nsample_coding -s3 pcm\nend_head\n"
    )
    source = tmp_path / "source"
    source.write_bytes(f"NIST_1A\n   1024\n{fields}".ljust(1024).encode() + sound.astype(dtype).tobytes())

    decoded = await decoder.decode(source, tmp_path / "pcm")

    np.testing.assert_array_equal(read_samples(decoded.pcm), sound)


@pytest.mark.parametrize("before", [b"\n", b"\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize(
    ("container", "codec"), [("wav", "pcm_s16le"), ("flac", "flac"), ("ipod", "aac"), ("ogg", "flac")]
)
async def test_line_breaks_before_the_file_are_skipped(
    before: bytes, container: str, codec: str, decoder: Decoder, tmp_path: Path
) -> None:
    sound = sweep(2)
    source = encode(tmp_path / "source", sound, container=container, codec=codec)
    source.write_bytes(before + source.read_bytes())

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.duration == pytest.approx(2.0, abs=0.1)
    assert likeness(read_samples(decoded.pcm), sound) > 0.97


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"MAC \x96\x0f", "Monkey's Audio is not supported"),
        (b".RMF\x00\x00\x00\x12", "RealMedia is not supported"),
        (b".ra\xfd\x00\x04", "RealAudio is not supported"),
        (b"\x06\x0e+4\x02\x05\x01\x01\r\x01\x02\x01\x01\x02\x04\x00", "MXF is not supported"),
        (b"ajkg\x02", "Shorten is not supported"),
        (b"tBaK", "TAK is not supported"),
        (b"OFR \x0f", "OptimFROG is not supported"),
        (b"\x03ds2\x00", r"DSS Pro \(\.ds2\) are not supported"),
        (b"MS_VOICE", r"voice recorders \(\.msv, \.dvf\) are not supported"),
        (b"\x02#!SILK_V3", "SILK is not supported"),
        (b"MThd\x00\x00\x00\x06", "is MIDI, which holds notes and no sound"),
        (b"#EXTM3U\nhttp://127.0.0.1/a.ts\n", "a playlist, not audio"),
        (b"[playlist]\nFile1=http://127.0.0.1/\n", "a playlist, not audio"),
        (b"data:audio/wav;base64,UklGRiQ=", "a data URL, whose audio has to be decoded from base64 first"),
        (b"Rar!\x1a\x07\x00", "a RAR archive, not audio"),
        (b"BZh91AY", "compressed with bzip2"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (b"GIF89a", "a picture, not audio"),
        (b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00", "a picture, not audio"),
        (b"\x00\x00\x00\x1cftypaaxc\x00\x00\x00\x00", r"audiobook of Audible \(\.aaxc\), which is encrypted"),
        (b'{"error": "not found"}', "a JSON document, not audio"),
        (b"%PDF-1.7\n", "a PDF document, not audio"),
        (b'\n<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document, not audio"),
        (b"<!DOCTYPE html><html></html>", "a web page, not audio"),
        (b"no audio at all", "could not be decoded as audio"),
    ],
)
async def test_file_that_is_no_supported_audio_is_called_by_its_name(
    head: bytes, words: str, decoder: Decoder, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(head + bytes(1000))
    with pytest.raises(UndecodableAudio, match=words) as caught:
        await decoder.decode(source, tmp_path / "pcm")
    assert str(caught.value).endswith(
        "send wav, mp3, flac, ogg/opus, m4a/aac, mp4, webm, mkv, or another common format."
    )


@pytest.mark.parametrize(
    ("container", "sound_codec", "pictures"), [("mp4", "aac", "libx264"), ("matroska", "flac", "libx264")]
)
@pytest.mark.parametrize("channels", ["mono", "stereo"])
async def test_sound_that_begins_after_the_pictures_keeps_its_times(
    container: str, sound_codec: str, pictures: str, channels: str, decoder: Decoder, tmp_path: Path
) -> None:
    sound = sweep(2)
    source = encode(
        tmp_path / "source", sound, container=container, codec=sound_codec, layout=channels, video=pictures, delay=1.5
    )

    decoded = await decoder.decode(source, tmp_path / "pcm", separate_channels=True)

    assert decoded.duration == pytest.approx(3.5, abs=0.1)
    first = read_samples(decoded.pcm)[:: decoded.channels]
    assert not first[: round(1.3 * RATE)].any()
    assert likeness(first[round(1.5 * RATE) :], sound) > 0.97


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
async def test_common_sample_rates_are_resampled(rate: int, decoder: Decoder, tmp_path: Path) -> None:
    sound = sweep(2)
    source = encode(tmp_path / "source", sound, container="wav", codec="pcm_s16le", rate=rate)

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.duration == pytest.approx(2.0, abs=0.002)
    assert likeness(read_samples(decoded.pcm), sound) > 0.99


@pytest.mark.parametrize("layout", ["mono", "stereo", "3.0", "quad", "5.1", "7.1"])
async def test_channels_are_mixed_without_clipping(layout: str, decoder: Decoder, tmp_path: Path) -> None:
    sound = sweep(1)
    source = encode(tmp_path / "source", sound, container="flac", codec="flac", rate=48_000, layout=layout)

    decoded = await decoder.decode(source, tmp_path / "pcm")

    samples = read_samples(decoded.pcm)
    assert likeness(samples, sound) > 0.99
    assert np.abs(samples).max() == pytest.approx(np.abs(sound).max(), rel=0.05)


@pytest.mark.parametrize("channels", [*range(1, 10), 16, 17, 32])
async def test_channels_without_a_named_layout_are_mixed(channels: int, decoder: Decoder, tmp_path: Path) -> None:
    sound = sweep(1)
    source = tmp_path / "source"
    with wave.open(str(source), "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes(np.repeat(sound, channels).tobytes())

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.samples == len(sound)
    assert likeness(read_samples(decoded.pcm), sound) > 0.99


async def test_both_stereo_channels_are_mixed_in(decoder: Decoder, tmp_path: Path) -> None:
    left, right = sine(1, frequency=400), sine(1, frequency=1_000)
    source = tmp_path / "source"
    with wave.open(str(source), "wb") as writer:
        writer.setnchannels(2)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes(np.stack([left, right], axis=1).tobytes())

    decoded = await decoder.decode(source, tmp_path / "pcm")

    samples = read_samples(decoded.pcm)
    assert likeness(samples, left) == pytest.approx(likeness(samples, right), abs=0.05)
    assert likeness(samples, left) > 0.6


async def test_silence_stays_silent(decoder: Decoder, tmp_path: Path) -> None:
    source = encode(tmp_path / "source", silence(2), container="wav", codec="pcm_s16le", rate=44_100)

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.duration == 2.0
    assert not read_samples(decoded.pcm).any()


def _references() -> list[dict[str, Any]]:
    references: list[dict[str, Any]] = json.loads((SAMPLES / "references.json").read_text(encoding="utf-8"))
    return references


@pytest.mark.parametrize("reference", _references(), ids=lambda reference: str(reference["file"]))
async def test_samples_are_decoded_to_their_length(reference: dict[str, Any], decoder: Decoder, tmp_path: Path) -> None:
    decoded = await decoder.decode(SAMPLES / reference["file"], tmp_path / "pcm")

    assert decoded.duration == pytest.approx(reference["duration"], abs=0.05)
    assert decoded.corrupt_frames == 0


@pytest.mark.parametrize(
    ("container", "codec", "first", "second"),
    [
        ("adts", "aac", (16_000, "mono"), (44_100, "stereo")),
        ("mp3", "libmp3lame", (44_100, "stereo"), (16_000, "mono")),
    ],
)
async def test_rate_and_layout_may_change_midway(
    container: str,
    codec: str,
    first: tuple[int, str],
    second: tuple[int, str],
    decoder: Decoder,
    tmp_path: Path,
) -> None:
    sound = sweep(3)
    source = tmp_path / "source"
    parts = [
        encode(tmp_path / "part", sound, container=container, codec=codec, rate=rate, layout=layout).read_bytes()
        for rate, layout in (first, second)
    ]
    source.write_bytes(b"".join(parts))

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.duration == pytest.approx(6.0, abs=0.25)
    samples = read_samples(decoded.pcm)
    assert likeness(samples[: len(samples) // 2], sound) > 0.9
    assert likeness(samples[len(samples) // 2 :], sound) > 0.9


@pytest.mark.parametrize(
    "links",
    [
        [("libopus", 48_000, "mono"), ("libopus", 48_000, "mono")],
        [("libopus", 48_000, "mono"), ("libopus", 48_000, "stereo"), ("libopus", 48_000, "mono")],
        [("vorbis", 16_000, "stereo"), ("vorbis", 44_100, "stereo")],
        [("flac", 16_000, "stereo"), ("flac", 44_100, "mono")],
        [("libopus", 48_000, "mono"), ("vorbis", 44_100, "stereo"), ("flac", 8_000, "mono")],
    ],
    ids=lambda links: "+".join(f"{codec}-{rate}-{layout}" for codec, rate, layout in links),
)
@pytest.mark.parametrize("separate_channels", [False, True])
async def test_all_links_of_a_chained_ogg_are_decoded(
    links: list[tuple[str, int, str]], decoder: Decoder, tmp_path: Path, *, separate_channels: bool
) -> None:
    sound = sweep(3)
    source = tmp_path / "source"
    parts = [
        encode(tmp_path / "part", sound, container="ogg", codec=codec, rate=rate, layout=layout).read_bytes()
        for codec, rate, layout in links
    ]
    source.write_bytes(b"".join(parts))

    decoded = await decoder.decode(source, tmp_path / "pcm", separate_channels=separate_channels)

    assert decoded.duration == pytest.approx(3 * len(links), abs=0.02)
    assert decoded.corrupt_frames == 0
    samples = read_samples(decoded.pcm)[:: decoded.channels]
    for number in range(len(links)):
        assert likeness(samples[3 * number * RATE : 3 * (number + 1) * RATE], sound) > 0.97
    preview = await decoder.decode(source, tmp_path / "pcm", stop_after_seconds=1)
    assert not preview.is_complete


async def test_ogg_with_several_streams_has_one_link(decoder: Decoder, tmp_path: Path) -> None:
    source = two_tracks(tmp_path / "source", sweep(2), sine(2), container="ogg", codec="flac")

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert (decoded.duration, decoded.tracks) == (2.0, 2)


@pytest.mark.parametrize(
    ("container", "codec", "rate"), [("webm", "libopus", 48_000), ("matroska", "flac", 16_000), ("mp4", "aac", 44_100)]
)
@pytest.mark.parametrize("separate_channels", [False, True])
async def test_sound_after_a_gap_keeps_its_times(
    container: str, codec: str, rate: int, decoder: Decoder, tmp_path: Path, *, separate_channels: bool
) -> None:
    """Lost packets and discontinuous transmission leave gaps, which a player plays as silence."""
    sound = sweep(4)
    whole = encode(tmp_path / "whole", sound, container=container, codec=codec, rate=rate, layout="stereo")
    with av.open(str(whole)) as packets, av.open(str(tmp_path / "source"), "w", format=container) as output:
        stream = output.add_stream_from_template(packets.streams.audio[0])
        for packet in packets.demux(audio=0):
            if packet.dts is None or packet.pts is None or packet.time_base is None:
                continue
            seconds = packet.pts * packet.time_base
            if not 1 <= seconds < 1.5:  # this half second is lost
                later = round(5 / packet.time_base) if seconds >= 2.5 else 0  # and nothing was sent for 5 s
                packet.pts, packet.dts, packet.stream = packet.pts + later, packet.dts + later, stream
                output.mux(packet)

    decoded = await decoder.decode(tmp_path / "source", tmp_path / "pcm", separate_channels=separate_channels)

    assert decoded.duration == pytest.approx(9, abs=0.15)
    samples = read_samples(decoded.pcm)[:: decoded.channels]
    assert not samples[round(2.7 * RATE) : round(7.3 * RATE)].any()
    for start, end, later in ((0, 1, 0), (1.5, 2.5, 0), (2.5, 4, 5)):
        heard = samples[round((start + later) * RATE) : round((end + later) * RATE)]
        assert likeness(heard, sound[round(start * RATE) : round(end * RATE)]) > 0.8


@pytest.mark.parametrize("align", [0, 1, 3, 4, 0xFFFF])
async def test_wrong_block_size_in_a_wav_is_ignored(align: int, decoder: Decoder, tmp_path: Path) -> None:
    sound = sweep(2)
    content = bytearray(encode(tmp_path / "w", sound, container="wav", codec="pcm_s16le").read_bytes())
    content[32:34] = align.to_bytes(2, "little")
    source = tmp_path / "source"
    source.write_bytes(content)

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.duration == pytest.approx(2, abs=0.001)
    assert likeness(read_samples(decoded.pcm), sound) > 0.99


async def test_part_that_an_edit_list_leaves_out_is_left_out(decoder: Decoder, tmp_path: Path) -> None:
    sound = sweep(4)
    content = bytearray(encode(tmp_path / "w", sound, container="ipod", codec="alac").read_bytes())
    entry = content.index(b"elst") + 12
    duration = int.from_bytes(content[entry : entry + 4], "big")  # in ms
    content[entry : entry + 8] = (duration - 1500).to_bytes(4, "big") + RATE.to_bytes(4, "big")
    source = tmp_path / "source"
    source.write_bytes(content)

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.duration == pytest.approx(2.5, abs=0.3)
    assert likeness(read_samples(decoded.pcm)[: 2 * RATE], sound[RATE : 3 * RATE]) > 0.99


@pytest.mark.parametrize("options", [{"rf64": "always"}, {"write_bext": "1"}, {"write_peak": "on"}], ids=str)
async def test_variant_of_wav_is_decoded(options: dict[str, str], decoder: Decoder, tmp_path: Path) -> None:
    source = encode(tmp_path / "source", sweep(2), container="wav", codec="pcm_s16le", options=options)

    decoded = await decoder.decode(source, tmp_path / "pcm")

    np.testing.assert_array_equal(read_samples(decoded.pcm), sweep(2))


async def test_raw_gsm_is_decoded(decoder: Decoder, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(raw_gsm())

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.duration == pytest.approx(1, abs=0.01)
    assert read_samples(decoded.pcm).any()


async def test_dictation_in_dss_is_decoded(decoder: Decoder, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(dss_dictation())

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.duration == pytest.approx(3 * 506 / 41 * 264 / 11_025, abs=0.05)  # every other frame has 40 bytes
    assert read_samples(decoded.pcm).any()


async def test_cover_picture_of_five_megabytes_is_skipped(decoder: Decoder, tmp_path: Path) -> None:
    size = 5_000_000
    syncsafe = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    picture = b"APIC" + (size - 10).to_bytes(4, "big") + b"\0\0" + bytes(size - 10)
    source = tmp_path / "source"
    source.write_bytes(b"ID3\x03\0\0" + syncsafe + picture + (SAMPLES / "numbers.mp3").read_bytes())

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.duration == pytest.approx(7.57, abs=0.05)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 0])
async def test_streamed_wav_without_a_length_is_decoded(length: int, decoder: Decoder, tmp_path: Path) -> None:
    sound = sweep(2)
    whole = encode(tmp_path / "whole", sound, container="wav", codec="pcm_s16le").read_bytes()
    start = whole.index(b"data") + 4
    source = tmp_path / "source"
    source.write_bytes(whole[:start] + length.to_bytes(4, "little") + whole[start + 4 :])

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.duration == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("name", ["concat:a|b.m3u8", "-i.sdp", "%03d.png", "pipe:0", "http:", "x.ffconcat"])
async def test_file_name_has_no_meaning(name: str, decoder: Decoder, tmp_path: Path) -> None:
    source = encode(tmp_path / "plain", sweep(1), container="wav", codec="pcm_s16le").rename(tmp_path / name)

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.samples == RATE


@pytest.mark.parametrize("track", [None, 1, 2])
async def test_audio_track_is_the_one_that_was_asked_for(track: int | None, decoder: Decoder, tmp_path: Path) -> None:
    source = two_tracks(tmp_path / "source", sweep(1), sweep(2, low=2000, high=4000))
    decoded = await decoder.decode(source, tmp_path / "pcm", track=track)
    assert (decoded.track, decoded.tracks) == (track or 1, 2)
    assert decoded.duration == pytest.approx(2.0 if track == 2 else 1.0, abs=0.01)


async def test_audio_track_that_does_not_exist_is_refused_with_the_number_of_those_that_do(
    decoder: Decoder, tmp_path: Path
) -> None:
    source = two_tracks(tmp_path / "source", sweep(1), sweep(1))
    with pytest.raises(UndecodableAudio, match="The file has 2 audio tracks, and `audio_track` is 3: send one of them"):
        await decoder.decode(source, tmp_path / "pcm", track=3)
