"""The recording of a job that keeps it: whole, in ranges, and for players that are paused."""

from __future__ import annotations

import asyncio
import io
import socket
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest

from app.api.recordings import MAX_RANGE_BYTES, _AudioResponse, media_type
from app.domain.errors import SpoolUnavailable
from app.domain.events import ConnectionCut, CutReason
from app.jobs.audio import StoredAudio
from tests.support.audio import RATE, silence
from tests.support.fault_server import answer, fault_server
from tests.support.service import Running, serving
from tests.support.waiting import LIMIT_SECONDS, eventually

if TYPE_CHECKING:
    import httpx
    from starlette.types import Message

    from app.domain.events import Event
    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held

pytestmark = [pytest.mark.anyio, pytest.mark.contract]

KEPT: Final = {"stored_output": "true", "keep_audio": "true"}


def wav_of(seconds: float) -> bytes:
    """Return a WAV file of silence, of 32 kB for each second."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(silence(seconds).tobytes())
    return content.getvalue()


#: Larger than a partial response.
LONG: Final = wav_of(80)


async def submit(running: Running, content: bytes, **fields: str) -> str:
    response = await running.client.post(
        "/v1/audio/transcriptions", data={**KEPT, **fields}, files={"file": ("a.wav", content)}
    )
    assert response.status_code == 200, response.text
    return str(response.json()["job_id"])


async def get(running: Running, job_id: str, byte_range: str | None = None, **headers: str) -> httpx.Response:
    if byte_range is not None:
        headers["Range"] = byte_range
    return await running.client.get(f"/v1/jobs/{job_id}/audio", headers=headers)


@pytest.fixture(scope="module")
async def kept(shared: Running) -> str:
    """The id of a completed job that has kept a long recording."""
    job_id = await submit(shared, LONG, name='"a"\u202e ä.wav')
    assert (await shared.finished(job_id))["status"] == "completed"
    return job_id


async def test_kept_recording_is_returned_as_it_was_received(shared: Running, kept: str) -> None:
    response = await get(shared, kept)
    assert response.status_code == 200
    assert response.content == LONG
    assert (await shared.job(kept))["audio_available"] is True
    expected = {
        "content-type": "audio/wav",
        "content-length": str(len(LONG)),
        "accept-ranges": "bytes",
        "cache-control": "private, no-store",
        "content-security-policy": "sandbox; default-src 'none'",
        "x-content-type-options": "nosniff",
        "content-disposition": "inline; filename*=UTF-8''%22a%22%20%C3%A4.wav",
    }
    assert expected.items() <= dict(response.headers).items()


async def test_head_has_the_headers_of_the_whole_recording(shared: Running, kept: str) -> None:
    whole = await get(shared, kept)
    for headers in ({}, {"Range": "bytes=0-9"}):
        response = await shared.client.head(f"/v1/jobs/{kept}/audio", headers=headers)
        assert (response.status_code, response.content) == (200, b"")
        own = {"date": "", "x-request-id": ""}
        assert {**response.headers, **own} == {**whole.headers, **own}


SIZE: Final = len(LONG)


@pytest.mark.parametrize(
    ("byte_range", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=7-7", 7, 8),
        ("BYTES=00-9", 0, 10),
        ("bytes=0-", 0, MAX_RANGE_BYTES),
        (f"bytes=0-{SIZE}", 0, MAX_RANGE_BYTES),
        (f"bytes=100-{'9' * 99}", 100, 100 + MAX_RANGE_BYTES),
        (f"bytes={MAX_RANGE_BYTES}-", MAX_RANGE_BYTES, 2 * MAX_RANGE_BYTES),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        (f"bytes={SIZE - 10}-{SIZE + 10}", SIZE - 10, SIZE),
        ("bytes=-1", SIZE - 1, SIZE),
        ("bytes=-500", SIZE - 500, SIZE),
        (f"bytes=-{SIZE + 1}", 0, MAX_RANGE_BYTES),
    ],
)
async def test_range_is_returned_up_to_a_mebibyte(
    shared: Running, kept: str, byte_range: str, start: int, end: int
) -> None:
    response = await get(shared, kept, byte_range)
    assert response.status_code == 206
    assert response.content == LONG[start:end]
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert response.headers["content-type"] == "audio/wav"


@pytest.mark.parametrize("byte_range", [f"bytes={SIZE}-", f"bytes={'9' * 99}-", "bytes=-0"])
async def test_range_beyond_the_end_is_not_satisfiable(shared: Running, kept: str, byte_range: str) -> None:
    response = await get(shared, kept, byte_range)
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{SIZE}"
    assert response.json()["error"]["code"] == "range_not_satisfiable"
    assert f"which has {SIZE} bytes, got {byte_range[:60]}" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "byte_range", ["bytes=0-1,5-6", "bytes=-", "bytes=9-3", "bytes=a-b", "seconds=0-1", "", f"bytes={'9' * 9999}-"]
)
async def test_other_ranges_are_ignored(shared: Running, kept: str, byte_range: str) -> None:
    response = await get(shared, kept, byte_range)
    assert (response.status_code, len(response.content)) == (200, SIZE)


async def test_range_counts_if_the_recording_is_the_same(shared: Running, kept: str) -> None:
    etag = (await get(shared, kept)).headers["etag"]
    assert (await get(shared, kept, "bytes=0-1", **{"If-Range": etag})).status_code == 206
    for other in ('"other"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert (await get(shared, kept, "bytes=0-1", **{"If-Range": other})).status_code == 200


@pytest.mark.parametrize(
    ("sample", "media_type"),
    [
        ("hello.wav", "audio/wav"),
        ("numbers.mp3", "audio/mpeg"),
        ("code.flac", "audio/flac"),
        ("upload.ogg", "audio/ogg"),
        ("colours.webm", "video/webm"),
        ("report.m4a", "audio/mp4"),
    ],
)
async def test_type_follows_from_the_content(shared: Running, samples: Path, sample: str, media_type: str) -> None:
    job_id = await shared.submit(samples / sample, **KEPT)
    assert (await get(shared, job_id)).headers["content-type"] == media_type


@pytest.mark.parametrize("content", [b"", b"<html><script>", b"%PDF-1.7", b"\x00", b"<svg onload=''/>", b"\xff\xfe<\0"])
def test_anything_else_is_only_bytes(content: bytes) -> None:
    assert media_type(content) == "application/octet-stream"


async def test_recording_can_be_fetched_while_its_job_runs(running: Running, held: Held, samples: Path) -> None:
    job_id = await running.submit(samples / "hello.wav", **KEPT)
    await running.until(job_id, "processing")
    assert (await running.job(job_id))["audio_available"] is True
    assert (await get(running, job_id)).content == (samples / "hello.wav").read_bytes()
    assert (await running.client.delete(f"/v1/jobs/{job_id}")).json()["status"] == "cancelled"
    response = await get(running, job_id)
    assert response.status_code == 404
    assert response.json()["error"]["message"] == (
        f"There is no recording of job {job_id}: the job is cancelled, and a recording is kept with a result only."
    )
    held.open.set()


@pytest.mark.full(reason="takes more than a second")
async def test_downloaded_recording_is_kept(running: Running, samples: Path) -> None:
    content = (samples / "hello.wav").read_bytes()
    async with fault_server(answer(200, content)) as source:
        response = await running.transcribe(None, url=source.url(), **KEPT)
        job_id = response.json()["job_id"]
        assert (await running.finished(job_id))["status"] == "completed"
    assert (await running.job(job_id))["audio_available"] is True
    assert (await get(running, job_id)).content == content


async def test_job_without_keep_audio_has_no_recording(shared: Running, samples: Path) -> None:
    job_id = await shared.submit(samples / "hello.wav", stored_output="true")
    job = await shared.finished(job_id)
    assert "audio_available" not in job
    response = await get(shared, job_id)
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": f"There is no recording of job {job_id}: it was submitted without `keep_audio=true`.",
        "type": "invalid_request_error",
        "param": None,
        "code": "no_audio",
    }


async def test_recording_goes_with_its_job(running: Running, samples: Path) -> None:
    job_id = await running.submit(samples / "hello.wav", **KEPT)
    await running.finished(job_id)
    assert await running.jobs_with_files() == {job_id}
    assert (await running.client.delete(f"/v1/jobs/{job_id}")).status_code == 200
    assert (await get(running, job_id)).json()["error"]["code"] == "job_not_found"
    assert await running.jobs_with_files() == set()


@pytest.mark.full(reason="takes more than a second")
@pytest.mark.one_process(reason="recordings take no disk of a node")
async def test_kept_recordings_count_in_the_budget(tmp_path: Path, model: WhisperModel) -> None:
    content = wav_of(2)
    limits: dict[str, Any] = {"max_upload_bytes": len(content), "spool_max_bytes": len(content) + 1000}
    async with serving(tmp_path / "data", lambda: model, **limits) as running:
        job_id = await submit(running, content)
        await running.finished(job_id)
    async with serving(tmp_path / "data", lambda: model, **limits) as running:
        assert (await get(running, job_id)).content == content
        refused = await running.client.post("/v1/audio/transcriptions", data=KEPT, files={"file": ("a.wav", content)})
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "disk_full")
        await running.client.delete(f"/v1/jobs/{job_id}")
        await submit(running, content)


# Slow readers.


class Player:
    """A media player with a small buffer, over a plain socket."""

    def __init__(self, running: Running, job_id: str) -> None:
        self._address = urlsplit(running.address)
        self._path = f"/v1/jobs/{job_id}/audio"

    async def request(self, byte_range: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, dict[str, str]]:
        """Send a request, and return its connection and the headers of the response."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)  # noqa: FBT003  # its only parameter
        await asyncio.get_running_loop().sock_connect(client, (self._address.hostname, self._address.port))
        reader, writer = await asyncio.open_connection(sock=client, limit=2048)
        writer.write(f"GET {self._path} HTTP/1.1\r\nHost: localhost\r\nRange: {byte_range}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = (line.partition(": ") for line in head.lower().split("\r\n")[1:] if line)
        return reader, writer, {name: value for name, _, value in fields}


class Cuts:
    """The connections that were cut for being read too slowly."""

    def __init__(self, running: Running) -> None:
        self.count = 0
        self._emit = running.service.metrics.__call__
        running.service.emit = self._take  # type: ignore[method-assign]  # the events of this service

    def _take(self, event: Event) -> None:
        self.count += event == ConnectionCut(CutReason.SLOW_READER)
        self._emit(event)


@pytest.mark.parametrize("byte_range", ["bytes=0-", "bytes=,"], ids=["in ranges", "whole"])
@pytest.mark.full(reason="takes more than a second")
async def test_player_that_pauses_too_long_continues_with_a_range(
    tmp_path: Path, model: WhisperModel, byte_range: str
) -> None:
    """A response that is not read is cut after SEND_TIMEOUT_SECONDS, as every other; nothing else is lost by that."""
    async with serving(tmp_path / "data", lambda: model, send_timeout_seconds=0.2) as running:
        cuts = Cuts(running)
        job_id = await submit(running, LONG)
        await running.finished(job_id)
        player = Player(running, job_id)
        reader, writer, headers = await player.request(byte_range)
        played = await reader.readexactly(3000)
        await eventually(lambda: cuts.count == 1)
        writer.close()
        async with asyncio.timeout(LIMIT_SECONDS):
            while len(played) < SIZE:
                reader, writer, headers = await player.request(f"bytes={len(played)}-")
                played += await reader.readexactly(int(headers["content-length"]))
                writer.close()
        assert played == LONG


async def test_player_between_two_ranges_can_pause_forever(tmp_path: Path, model: WhisperModel) -> None:
    """A partial response ends by itself, so the server waits for nobody while a player plays what it has."""
    async with serving(tmp_path / "data", lambda: model, send_timeout_seconds=0.2) as running:
        cuts = Cuts(running)
        job_id = await submit(running, LONG)
        await running.finished(job_id)
        _, stalled, _ = await Player(running, job_id).request("bytes=0-")  # whose cut shows that time has passed
        player = Player(running, job_id)
        reader, writer, headers = await player.request("bytes=0-")
        played = await reader.readexactly(int(headers["content-length"]))
        await eventually(lambda: cuts.count == 1)
        writer.write(
            f"GET /v1/jobs/{job_id}/audio HTTP/1.1\r\nHost: localhost\r\nRange: bytes={len(played)}-\r\n\r\n".encode()
        )
        assert b" 206 " in await reader.readline()
        writer.close()
        assert cuts.count == 1
        stalled.close()


@pytest.mark.one_process(reason="a node reads recordings from the object store")
async def test_client_that_goes_away_ends_the_response(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model) as running:
        job_id = await submit(running, LONG)
        await running.finished(job_id)
        _, writer, _ = await Player(running, job_id).request("bytes=,")
        assert open_recordings(job_id) == 1
        writer.transport.abort()
        await eventually(lambda: open_recordings(job_id) == 0)


def open_recordings(job_id: str) -> int:
    """Return how many open files of this process are the job's recording."""
    targets: list[str] = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            targets.append(str(link.readlink()))
        except FileNotFoundError:
            continue
    return sum(target.endswith(f"{job_id}/audio") for target in targets)


# Waveforms.


async def test_waveform_shows_where_it_is_loud(shared: Running, samples: Path) -> None:
    job_id = await shared.submit(samples / "hello.wav", **KEPT)
    job = await shared.finished(job_id)
    response = await shared.client.get(f"/v1/jobs/{job_id}/waveform")
    waveform = response.json()
    assert waveform.keys() == {"duration", "points", "channels"}
    assert waveform["duration"] == job["audio_duration"]
    (channel,) = waveform["channels"]
    assert waveform["points"] == len(channel) == 105  # 20 a second
    assert (min(channel), max(channel)) == (0, 255)
    fewer = (await shared.client.get(f"/v1/jobs/{job_id}/waveform", params={"points": 5})).json()
    assert (fewer["points"], fewer["channels"][0]) == (5, [max(channel[21 * i : 21 * i + 21]) for i in range(5)])


@pytest.mark.full(reason="takes more than a second")
async def test_waveform_has_each_channel_that_was_transcribed(shared: Running, samples: Path) -> None:
    for multichannel, channels in (("true", 2), ("false", 1)):
        job_id = await shared.submit(samples / "two_speakers_stereo.flac", multichannel=multichannel, **KEPT)
        await shared.finished(job_id)
        waveform = (await shared.client.get(f"/v1/jobs/{job_id}/waveform")).json()
        assert len(waveform["channels"]) == channels
        assert max(map(max, waveform["channels"])) == 255


async def test_waveform_of_silence_is_flat(shared: Running, kept: str) -> None:
    waveform = (await shared.client.get(f"/v1/jobs/{kept}/waveform", params={"points": 20000})).json()
    assert waveform["points"] == 80 * 20
    assert waveform["channels"] == [[0] * 80 * 20]


@pytest.mark.parametrize("points", ["0", "20001", "many", "-1"])
async def test_number_of_points_is_checked(shared: Running, kept: str, points: str) -> None:
    response = await shared.client.get(f"/v1/jobs/{kept}/waveform", params={"points": points})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "points")


async def test_job_without_a_recording_has_no_waveform(shared: Running, samples: Path) -> None:
    job_id = await shared.submit(samples / "hello.wav", stored_output="true")
    await shared.finished(job_id)
    response = await shared.client.get(f"/v1/jobs/{job_id}/waveform")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "no_waveform")
    assert "submit it with `keep_audio=true`" in response.json()["error"]["message"]


@pytest.mark.full(reason="takes more than a second")
async def test_job_and_its_recording_go_when_it_asked_for(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(
        tmp_path / "data", lambda: model, job_retention_seconds=0.2, max_retention_seconds=60
    ) as running:
        short = await running.submit(samples / "hello.wav", retention_seconds="0", **KEPT)
        long = await running.submit(samples / "hello.wav", retention_seconds="60", **KEPT)
        job = await running.finished(long)
        assert job["result_expires_at"] == pytest.approx(job["end_time"] + 60, abs=1)
        await eventually(lambda: not running.service.jobs.store.knows(short))
        assert (await get(running, short)).status_code == 404
        assert (await get(running, long)).status_code == 200


class AudioThatBreaksOff(StoredAudio):
    """Audio in a store that is away after the first bytes."""

    size = 100
    version = "1"

    def __init__(self) -> None:
        self.reads = 0
        self.is_closed = False

    def read(self, size: int = -1, /) -> bytes:
        self.reads += 1
        if self.reads > 1:
            raise SpoolUnavailable("The object store can't be reached now.", retry_after_seconds=10)
        return b"x" * min(size, 10)

    def read_range(self, start: int, end: int) -> bytes:
        return b"x" * (end - start)

    def close(self) -> None:
        self.is_closed = True


async def test_recording_whose_store_goes_away_stays_incomplete(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    audio = AudioThatBreaksOff()
    await _AudioResponse(audio, headers={"Content-Length": "100"}, media_type="audio/wav")(
        {"type": "http"}, receive, send
    )
    assert [(message["type"], message.get("more_body")) for message in sent] == [
        ("http.response.start", None),
        ("http.response.body", True),
    ]
    assert audio.is_closed
    assert [record.getMessage() for record in caplog.records] == [
        "⚠️ A recording broke off: The object store can't be reached now."
    ]
