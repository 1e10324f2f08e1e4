"""The intact parts of damaged files are decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.domain.errors import AudioTooLong, UndecodableAudio
from app.transcription.decoding import Decoder
from tests.support.audio import RATE, encode, likeness, read_samples, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """A decoder for all tests, which each start a process of its server."""
    decoder = Decoder(max_seconds=3600)
    yield decoder
    decoder.close()


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("mp3", "libmp3lame", 44_100),
        ("ogg", "libopus", 48_000),
        ("ogg", "vorbis", 44_100),
        ("flac", "flac", 16_000),
        ("adts", "aac", 44_100),
        ("matroska", "libopus", 48_000),
        ("ipod", "aac", 44_100),
    ],
)
@pytest.mark.full(reason="decodes each file many times")
async def test_damaged_bytes_only_cost_their_surroundings(
    container: str, codec: str, rate: int, decoder: Decoder, tmp_path: Path
) -> None:
    sound = sweep(30)
    layout = "stereo" if codec == "vorbis" else "mono"
    content = bytearray(
        encode(tmp_path / "w", sound, container=container, codec=codec, rate=rate, layout=layout).read_bytes()
    )
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(byte ^ 0xA5 for byte in content[middle : middle + 200])
    source = tmp_path / "source"
    source.write_bytes(content)

    decoded = await decoder.decode(source, tmp_path / "pcm")

    # Decoding of matroska resumes with the next cluster; clusters are 5 s long here.
    assert decoded.duration >= (24 if container == "matroska" else 27)
    samples = read_samples(decoded.pcm)
    third = len(sound) // 3
    assert likeness(samples[: len(samples) // 3], sound[:third]) > 0.9
    assert likeness(samples[-len(samples) // 3 :], sound[-third:]) > 0.9


@pytest.mark.parametrize(
    ("container", "codec"), [("mp3", "libmp3lame"), ("wav", "pcm_s16le"), ("ogg", "flac"), ("adts", "aac")]
)
async def test_first_half_of_a_file_is_decoded(container: str, codec: str, decoder: Decoder, tmp_path: Path) -> None:
    content = encode(tmp_path / "whole", sweep(10), container=container, codec=codec).read_bytes()
    source = tmp_path / "source"
    source.write_bytes(content[: len(content) // 2])

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.duration == pytest.approx(5.0, abs=1.5)


async def test_m4a_truncated_before_its_index_is_refused(decoder: Decoder, tmp_path: Path) -> None:
    content = encode(tmp_path / "whole", sweep(5), container="ipod", codec="aac").read_bytes()
    source = tmp_path / "source"
    source.write_bytes(content[: content.index(b"moov") - 4])

    with pytest.raises(UndecodableAudio, match=r"damaged or incomplete, perhaps because .* Send the whole file"):
        await decoder.decode(source, tmp_path / "pcm")


async def test_truncated_m4a_with_its_index_first_is_decoded(decoder: Decoder, tmp_path: Path) -> None:
    options = {"movflags": "faststart"}
    content = encode(tmp_path / "w", sweep(10), container="ipod", codec="aac", options=options).read_bytes()
    source = tmp_path / "source"
    source.write_bytes(content[: len(content) // 2])

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.duration == pytest.approx(5.0, abs=1.0)


LENGTH_IN_HEADER = [("ipod", "aac"), ("flac", "flac"), ("matroska", "flac"), ("ogg", "flac")]


@pytest.mark.parametrize(("container", "codec"), LENGTH_IN_HEADER)
async def test_truncated_file_whose_header_claims_too_much_is_decoded(
    container: str, codec: str, tmp_path: Path
) -> None:
    options = {"movflags": "faststart"} if container == "ipod" else {}
    content = encode(tmp_path / "w", sweep(40), container=container, codec=codec, options=options).read_bytes()
    source = tmp_path / "source"
    source.write_bytes(content[: len(content) // 2])

    decoded = await Decoder(max_seconds=30).decode(source, tmp_path / "pcm")

    assert decoded.duration == pytest.approx(20, abs=4)
    assert likeness(read_samples(decoded.pcm), sweep(40)[: decoded.samples]) > 0.97
    claimed = 0 if container == "ogg" else 40  # Ogg states its length at its end
    assert decoded.duration + decoded.missing_seconds == pytest.approx(max(claimed, decoded.duration), abs=0.1)


@pytest.mark.parametrize(("container", "codec"), LENGTH_IN_HEADER)
async def test_file_that_is_as_long_as_its_header_claims_is_refused_before_it_is_decoded(
    container: str, codec: str, tmp_path: Path
) -> None:
    source = encode(tmp_path / "source", sweep(200), container=container, codec=codec)
    heard: list[int] = []
    with pytest.raises(AudioTooLong):
        await Decoder(max_seconds=100).decode(
            source, tmp_path / "pcm", on_progress=lambda samples, _: heard.append(samples)
        )
    assert heard == []


async def test_m4a_truncated_after_its_index_is_called_incomplete(tmp_path: Path) -> None:
    options = {"movflags": "faststart"}
    content = encode(tmp_path / "w", sweep(40), container="ipod", codec="aac", options=options).read_bytes()
    source = tmp_path / "source"
    source.write_bytes(content[: content.index(b"mdat") + 8])
    for most in (30, 3600):
        with pytest.raises(UndecodableAudio) as caught:
            await Decoder(max_seconds=most).decode(source, tmp_path / "pcm")
        assert str(caught.value) == (
            "The file is damaged or incomplete: none of its 40 s could be decoded. Send the whole file, or another one."
        )


@pytest.mark.parametrize(
    ("silent_seconds", "megabytes"), [pytest.param(0.2, 128, id="time"), pytest.param(60, 256, id="memory")]
)
async def test_search_for_more_audio_stops_at_a_limit(
    silent_seconds: float, megabytes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound = encode(tmp_path / "whole", sweep(5), container="mp3", codec="libmp3lame").read_bytes()
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.write(sound)
        file.seek(megabytes << 20, 1)
        file.write(sound)

    decoded = await Decoder(max_seconds=3600, silent_seconds=silent_seconds).decode(source, tmp_path / "pcm")

    assert decoded.duration == pytest.approx(5, abs=0.5)
    assert decoded.gave_up
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"⚠️ The audio was taken to end after {decoded.duration:.1f} s, because")


async def test_audio_without_a_description_is_not_called_missing(decoder: Decoder, tmp_path: Path) -> None:
    content = encode(tmp_path / "w", sweep(2), container="ipod", codec="aac").read_bytes()
    source = tmp_path / "source"
    source.write_bytes(content.replace(b"stsd", b"xxxx"))

    with pytest.raises(UndecodableAudio, match="The audio in the file is damaged, encrypted or of an unknown codec"):
        await decoder.decode(source, tmp_path / "pcm")


async def test_chained_file_loses_only_its_damaged_link(decoder: Decoder, tmp_path: Path) -> None:
    sound = sweep(3)
    links = [
        encode(tmp_path / "w", sound, container="ogg", codec=codec, rate=rate).read_bytes()
        for codec, rate in (("flac", 16_000), ("libopus", 48_000), ("flac", 44_100))
    ]
    links[1] = links[1][:60] + bytes(len(links[1]) - 60)
    source = tmp_path / "source"
    source.write_bytes(b"".join(links))

    decoded = await decoder.decode(source, tmp_path / "pcm")

    assert decoded.duration == pytest.approx(6, abs=0.01)
    assert decoded.corrupt_frames >= 1
    assert likeness(read_samples(decoded.pcm)[3 * RATE :], sound) > 0.99


async def test_audio_after_a_short_gap_is_found(decoder: Decoder, tmp_path: Path) -> None:
    sound = encode(tmp_path / "whole", sweep(5), container="mp3", codec="libmp3lame").read_bytes()
    source = tmp_path / "source"
    source.write_bytes(sound + bytes(32 << 20) + sound)

    assert (await decoder.decode(source, tmp_path / "pcm")).duration == pytest.approx(10, abs=0.5)


async def test_file_without_audio_within_the_limit_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"#!AMR\n" + b"\x7c" * 1_000_000)

    with pytest.raises(UndecodableAudio, match=r"No sound could be decoded from the file in the first 0\.2 s of decod"):
        await Decoder(max_seconds=3600, silent_seconds=0.2).decode(source, tmp_path / "pcm")
