"""Files made to read other files, to reach the network or to exhaust the machine are refused."""

from __future__ import annotations

import asyncio
import os
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from app.domain.errors import AudioTooLong, UndecodableAudio
from app.transcription.decoding import Decoder
from tests.support.audio import encode, silence, sweep
from tests.support.hostile_boxes import alias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

#: A decoder that opened one of the pipes or ports in these tests would wait for ever.
LIMIT_SECONDS = 60.0


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """A decoder for all tests, which each start a process of its server."""
    decoder = Decoder(max_seconds=3600)
    yield decoder
    decoder.close()


def playlist(target: str) -> str:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n"


def encrypted_playlist(target: str) -> str:
    return (
        f'#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n'
        f"#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n"
    )


def concatenation(target: str) -> str:
    return f"ffconcat version 1.0\nfile '{target}'\n"


def session_description(target: str) -> str:
    return (
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{target}\nm=audio 41234 RTP/AVP 0\n"
    )


def dash_manifest(target: str) -> str:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT3S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        '<AdaptationSet contentType="audio" mimeType="audio/mp4"><Representation id="1" bandwidth="1000">'
        f"<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    )


def smooth_manifest(target: str) -> str:
    return f'<SmoothStreamingMedia MajorVersion="2"><StreamIndex Url="{target}"/></SmoothStreamingMedia>'


def picture_list(target: str) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{target}"/></svg>'


MAKERS = [
    playlist,
    encrypted_playlist,
    concatenation,
    session_description,
    dash_manifest,
    smooth_manifest,
    picture_list,
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("prefix", ["", "file:", "concat:", "subfile,,start,0,end,0,,:", "crypto:"])
@pytest.mark.full(reason="decodes dozens of files")
async def test_list_of_files_opens_none_of_them(
    make: Callable[[str], str], prefix: str, decoder: Decoder, tmp_path: Path
) -> None:
    # Opening a named pipe blocks until its other end is opened.
    target = tmp_path / "target.wav"
    os.mkfifo(target)
    source = tmp_path / "source"
    source.write_text(make(f"{prefix}{target}"), encoding="utf-8")

    with pytest.raises(UndecodableAudio):
        await asyncio.wait_for(decoder.decode(source, tmp_path / "pcm"), LIMIT_SECONDS)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("scheme", ["http", "tcp"])
async def test_list_of_urls_connects_to_none_of_them(
    make: Callable[[str], str], scheme: str, decoder: Decoder, tmp_path: Path
) -> None:
    connections = 0

    async def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    async with await asyncio.start_server(count, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        source = tmp_path / "source"
        source.write_text(make(f"{scheme}://127.0.0.1:{port}/a.wav"), encoding="utf-8")

        with pytest.raises(UndecodableAudio):
            await asyncio.wait_for(decoder.decode(source, tmp_path / "pcm"), LIMIT_SECONDS)

    assert connections == 0


def test_unprotected_decoder_would_follow_the_lists(tmp_path: Path) -> None:
    target = encode(tmp_path / "target.ts", sweep(2), container="mpegts", codec="aac")
    for make in (playlist, concatenation):
        source = tmp_path / "source.m3u8"
        source.write_text(make(target.name), encoding="utf-8")
        with av.open(str(source)) as container:
            assert sum(frame.samples for frame in container.decode(audio=0)) > 16_000


def test_unprotected_decoder_would_read_the_external_track(tmp_path: Path) -> None:
    source = with_external_track(tmp_path)
    options = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(source), container_options=options) as container:
        assert any(frame.to_ndarray().any() for frame in container.decode(audio=0))


async def test_track_in_another_file_is_not_read(decoder: Decoder, tmp_path: Path) -> None:
    source = with_external_track(tmp_path)

    with pytest.raises(UndecodableAudio):
        await decoder.decode(source, tmp_path / "pcm")


def with_external_track(folder: Path) -> Path:
    """Write a silent mov whose track is said to be in the loud ``target.mov`` beside it."""
    target = encode(folder / "target.mov", sweep(2), container="mov", codec="pcm_s16be")
    silent = encode(folder / "silent.mov", silence(2), container="mov", codec="pcm_s16be").read_bytes()
    record = alias(str(target))
    entry = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    place = silent.index(b"dref") + 12
    old = int.from_bytes(silent[place : place + 4], "big")
    content = bytearray(silent[:place] + entry + silent[place + old :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = (silent.rindex(box, 0, place) if box != b"moov" else silent.rindex(box)) - 4
        size = int.from_bytes(content[start : start + 4], "big") + len(entry) - old
        content[start : start + 4] = size.to_bytes(4, "big")
    source = folder / "source.mov"
    source.write_bytes(content)
    return source


def zip_file(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.wav", bytes(100_000))


def png_picture(path: Path) -> None:
    with av.open(str(path), "w", format="image2") as output:
        stream: Any = output.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
        output.mux(stream.encode(av.VideoFrame(64, 64, "rgb24")))
        output.mux(stream.encode(None))


NOT_AUDIO: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("This is not music. " * 500, encoding="utf-8"),
    "html": lambda path: path.write_text("<html><body>404</body></html>", encoding="utf-8"),
    "json": lambda path: path.write_text('{"error": "not found"}', encoding="utf-8"),
    "a_picture": png_picture,
    "a_zip": zip_file,
    "zeros": lambda path: path.write_bytes(bytes(1_000_000)),
    "a_byte": lambda path: path.write_bytes(b"R"),
    "noise": lambda path: path.write_bytes(np.random.default_rng(1).bytes(1_000_000)),
    "a_wav_without_samples": lambda path: path.write_bytes(wav(content=b"")),
}


@pytest.mark.parametrize("make", NOT_AUDIO.values(), ids=NOT_AUDIO.keys())
async def test_file_without_audio_is_refused(make: Callable[[Path], object], decoder: Decoder, tmp_path: Path) -> None:
    source = tmp_path / "source.mp3"
    make(source)

    with pytest.raises(UndecodableAudio, match=r"decoded|not audio"):
        await asyncio.wait_for(decoder.decode(source, tmp_path / "pcm"), LIMIT_SECONDS)


async def test_empty_file_is_refused(decoder: Decoder, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.touch()

    with pytest.raises(UndecodableAudio, match="The file is empty: send a file with audio in it"):
        await decoder.decode(source, tmp_path / "pcm")


async def test_video_without_audio_is_refused(decoder: Decoder, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with av.open(str(source), "w", format="mp4") as output:
        stream: Any = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        output.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        output.mux(stream.encode(None))

    with pytest.raises(UndecodableAudio, match="no audio stream"):
        await decoder.decode(source, tmp_path / "pcm")


def wav(*, rate: int = 16_000, channels: int = 1, content: bytes = bytes(20_000)) -> bytes:
    block = 2 * channels & 0xFFFF
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * block & 0xFFFFFFFF, block, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


def au(*, rate: int, channels: int) -> bytes:
    return struct.pack(">4sIIIII", b".snd", 24, 0xFFFFFFFF, 3, rate, channels) + bytes(20_000)


@pytest.mark.parametrize(
    "content",
    [
        wav(rate=1),
        wav(rate=3_999),
        wav(rate=384_001),
        wav(rate=0),
        wav(rate=0xFFFFFFFF),
        wav(channels=33),
        wav(channels=0),
        wav(channels=0xFFFF),
        au(rate=1, channels=1),
        au(rate=16_000, channels=2**31),
        au(rate=16_000, channels=2**31 - 1),
        au(rate=16_000, channels=1_000),
    ],
)
async def test_absurd_rate_or_number_of_channels_is_refused(content: bytes, decoder: Decoder, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(content)

    with pytest.raises(UndecodableAudio):
        await asyncio.wait_for(decoder.decode(source, tmp_path / "pcm"), LIMIT_SECONDS)


@pytest.mark.parametrize("rate", [4_000, 384_000])
async def test_lowest_and_highest_sample_rates_are_accepted(rate: int, decoder: Decoder, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(wav(rate=rate, content=bytes(rate * 2)))

    assert (await decoder.decode(source, tmp_path / "pcm")).duration == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("claims_its_length", [True, False])
async def test_small_file_with_a_day_of_silence_is_too_long(
    *, claims_its_length: bool, decoder: Decoder, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(silent_flac(hours=24, claims_its_length=claims_its_length))
    assert source.stat().st_size < 300_000

    with pytest.raises(AudioTooLong, match=r"must not be longer than 3600 s \(1 h\): split it, or raise MAX_AUDIO"):
        await decoder.decode(source, tmp_path / "pcm")

    assert not (tmp_path / "pcm").exists()


@pytest.mark.parametrize("between", [b"", b"x"], ids=["one group", "many links"])
@pytest.mark.full(reason="reads large files")
async def test_ogg_of_first_pages_alone_is_refused(between: bytes, decoder: Decoder, tmp_path: Path) -> None:
    page = b"OggS\0\2" + bytes(20) + b"\1\0"
    source = tmp_path / "source"
    source.write_bytes((page + between) * 1_000_000)

    with pytest.raises(UndecodableAudio):
        await asyncio.wait_for(decoder.decode(source, tmp_path / "pcm"), LIMIT_SECONDS)


async def test_audio_of_exactly_the_limit_is_accepted(tmp_path: Path) -> None:
    exact = encode(tmp_path / "exact", sweep(2), container="wav", codec="pcm_s16le")
    over = encode(tmp_path / "over", sweep(2.01), container="wav", codec="pcm_s16le")
    decoder = Decoder(max_seconds=2)

    assert (await decoder.decode(exact, tmp_path / "pcm")).duration == 2.0
    with pytest.raises(AudioTooLong):
        await decoder.decode(over, tmp_path / "pcm")


def silent_flac(*, hours: int, claims_its_length: bool) -> bytes:
    """Return a FLAC file of constant subframes of 65,535 samples at 8 kHz, 16 bytes each (RFC 9639)."""
    rate, block = 8_000, 65_535
    frames = hours * 3600 * rate // block
    total = frames * block if claims_its_length else 0
    shape = (rate << 44) | (15 << 36) | total
    info = struct.pack(">HH", block, block) + bytes(6) + shape.to_bytes(8, "big") + bytes(16)
    parts = [b"fLaC", b"\x80" + len(info).to_bytes(3, "big"), info]
    for number in range(frames):
        head = b"\xff\xf8\x74\x08" + chr(number).encode("utf-8", "surrogatepass") + struct.pack(">H", block - 1)
        frame = head + bytes([crc(head, bits=8, polynomial=0x07)]) + b"\x00\x00\x00"
        parts.append(frame + crc(frame, bits=16, polynomial=0x8005).to_bytes(2, "big"))
    return b"".join(parts)


def crc(content: bytes, *, bits: int, polynomial: int) -> int:
    value, top, mask = 0, 1 << (bits - 1), (1 << bits) - 1
    for byte in content:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & mask
    return value
