"""References of known speakers' voices: data URLs and files, on their way into the spool and out of it."""

from __future__ import annotations

import asyncio
import base64
import json
import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.api.arriving_files import MAX_REFERENCE_BYTES
from app.api.multipart import ReceivedForm, read_form
from app.domain.errors import DiskFull, InvalidRequest
from app.jobs.space import Space
from app.jobs.spool import Spool
from tests.support.audio import SAMPLES
from tests.support.fault_server import answer, fault_server
from tests.support.service import Running, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
    from pathlib import Path

    import httpx

    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held

JOB: Final = "4f0c"
BOUNDARY: Final = "----boundary"
FORM: Final = f"multipart/form-data; boundary={BOUNDARY}"
URLENCODED: Final = "application/x-www-form-urlencoded"
MIB: Final = 1024 * 1024
#: Bytes in which a careless parser sees boundaries.
VOICE: Final = b"RIFF\r\n--\r\n------bound\r\n" + bytes(range(256))
OTHER: Final = b"ID3 and so on"
NAME: Final = "known_speaker_references"


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "data", Space(tmp_path, max_bytes=20 * MIB))
    spool.open()
    yield spool
    spool.close()


def data_url(content: bytes, media_type: str = "audio/wav") -> bytes:
    return f"data:{media_type};base64,".encode() + base64.b64encode(content)


def part(value: bytes, *, head: str = "", name: str = f"{NAME}[]") -> bytes:
    lines = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{head}\r\n\r\n'
    return lines.encode() + value + b"\r\n"


def file_part(value: bytes, *, name: str = f"{NAME}[]", filename: str = "a.wav") -> bytes:
    return part(value, head=f'; filename="{filename}"\r\nContent-Type: audio/wav', name=name)


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def read(spool: Spool, chunks: Iterable[bytes], content_type: str = FORM) -> ReceivedForm:
    async def arriving() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return asyncio.run(read_form(arriving(), content_type, spool=spool, job_id=JOB, max_file_bytes=4 * MIB))


def rejection(spool: Spool, *parts: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(spool, [form(*parts)])
    assert caught.value.param == NAME
    return str(caught.value)


def stored(spool: Spool) -> list[bytes]:
    return [path.read_bytes() for path in spool.references(JOB)]


BODY: Final = form(
    part(b"Anna,Bob,Carl", name="known_speaker_names"),
    part(data_url(VOICE)),
    file_part(VOICE, name="file"),
    file_part(OTHER),
    part(b"\r\n" + base64.encodebytes(VOICE).join([b"data:audio/ogg;base64,", b" \r\n"]), name=NAME),
)


def check_body(received: ReceivedForm, spool: Spool) -> None:
    assert received.fields == {"known_speaker_names": ["Anna,Bob,Carl"]}
    assert received.file_bytes == len(VOICE)
    assert stored(spool) == [VOICE, OTHER, VOICE]
    first, second, third = received.reference_digests
    assert first == third == received.file_digest != second
    assert spool.space.claimed == 3 * len(VOICE) + len(OTHER)


@given(st.lists(st.integers(0, len(BODY)), max_size=12).map(sorted))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_references_are_stored_alike_however_the_body_is_split(spool: Spool, cuts: list[int]) -> None:
    spool.discard(JOB)
    check_body(read(spool, [BODY[start:end] for start, end in pairwise([0, *cuts, len(BODY)])]), spool)


def test_references_can_arrive_byte_by_byte(spool: Spool) -> None:
    check_body(read(spool, [bytes([byte]) for byte in BODY]), spool)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(part(json.dumps([data_url(VOICE).decode()] * 2).encode()), id="array"),
        pytest.param(part(json.dumps([data_url(VOICE).decode()] * 2).replace("/", "\\/").encode()), id="escaped"),
        pytest.param(
            part(json.dumps(data_url(VOICE).decode()).encode(), head="\r\nContent-Type: application/json") * 2,
            id="strings",
        ),
        pytest.param(part(data_url(VOICE), head="\r\nContent-Type: text/plain") * 2, id="text"),
    ],
)
def test_references_can_be_sent_as_other_arrays_are(spool: Spool, value: bytes) -> None:
    received = read(spool, [form(value)])
    assert received.fields == {}
    assert stored(spool) == [VOICE, VOICE]


@pytest.mark.parametrize("quote", [None, "+"])
def test_references_in_a_urlencoded_form_are_decoded(spool: Spool, quote: str | None) -> None:
    content = b"\xfb\xef\xbe" * 100  # whose base64 is full of plus signs
    url = data_url(content).decode()
    fields = urlencode({f"{NAME}[]": url, "model": "small"}, safe=quote or "")
    received = read(spool, [fields.encode()], URLENCODED)
    assert received.fields == {"model": ["small"]}
    assert stored(spool) == [content]
    assert len(received.reference_digests) == 1


@pytest.mark.parametrize(
    "blank", [part(b""), part(b" \r\n"), file_part(b"", filename=""), part(b"[]"), part(b'[""]')], ids=repr
)
def test_blank_reference_counts_as_absent(spool: Spool, blank: bytes) -> None:
    received = read(spool, [form(blank, part(data_url(OTHER)), blank)])
    assert stored(spool) == [OTHER]
    assert len(received.reference_digests) == 1


@pytest.mark.parametrize("empty", [part(b"data:audio/wav;base64,"), file_part(b"")])
def test_empty_reference_is_rejected(spool: Spool, empty: bytes) -> None:
    assert rejection(spool, part(data_url(VOICE)), empty) == (
        "`known_speaker_references` number 2 must not be empty: send 2 to 10 s of that speaker's voice."
    )


@pytest.mark.parametrize(
    ("value", "requirement"),
    [
        (b"https://a.example/v.wav?secret=1", "be a data URL, such as data:audio/wav;base64,UklGR…, or a file"),
        (b"[1]", "be a data URL, such as data:audio/wav;base64,UklGR…, or a file"),
        (b'["data:,"', "be a data URL, such as data:audio/wav;base64,UklGR…, or a file"),
        (b"data:audio/wav,RIFF", "be encoded in base64, such as data:audio/wav;base64,UklGR…"),
        (b"data:audio/wav;base64,RIFF!", "have valid base64 after its comma"),
        (data_url(VOICE, "text/plain"), "be audio, such as data:audio/wav;base64,UklGR…, got the type text/plain"),
    ],
)
def test_reference_that_cannot_be_decoded_is_rejected(spool: Spool, value: bytes, requirement: str) -> None:
    assert rejection(spool, part(value)) == f"`known_speaker_references` number 1 must {requirement}."


def test_largest_references_are_accepted_and_larger_ones_rejected(spool: Spool) -> None:
    largest = b"x" * MAX_REFERENCE_BYTES
    received = read(spool, [form(part(data_url(largest)), file_part(largest))])
    assert len(received.reference_digests) == 2
    for too_large in (part(data_url(largest + b"x")), file_part(largest + b"x")):
        assert rejection(spool, too_large) == (
            f"`known_speaker_references` number 1 must have at most {MAX_REFERENCE_BYTES} bytes: send 2 to 10 s of "
            "speech."
        )


def test_more_than_four_references_are_rejected(spool: Spool) -> None:
    assert len(read(spool, [form(part(data_url(VOICE)) * 4)]).reference_digests) == 4
    for parts in (
        part(data_url(VOICE)) * 5,
        file_part(VOICE) * 5,
        part(json.dumps(["data:;base64,AA=="] * 5).encode()),
    ):
        assert rejection(spool, parts) == (
            "`known_speaker_references` must be at most 4: send those of the 4 most important speakers."
        )


def test_four_of_the_largest_references_take_little_memory(spool: Spool) -> None:
    url = part(data_url(bytes(MAX_REFERENCE_BYTES)))

    def chunks() -> Iterator[bytes]:
        for _ in range(4):
            for start in range(0, len(url), 65_536):
                yield url[start : start + 65_536]
        yield form()

    tracemalloc.start()
    try:
        received = read(spool, chunks())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(received.reference_digests) == 4
    assert spool.space.claimed == 4 * MAX_REFERENCE_BYTES
    assert peak < 2 * MIB


def test_references_share_the_budget_with_the_audio(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "data", Space(tmp_path, max_bytes=1000))
    spool.open()
    for parts in (
        (file_part(bytes(600), name="file"), part(data_url(bytes(401)))),
        (part(data_url(bytes(401))), file_part(bytes(600), name="file")),
        (part(data_url(bytes(501))), part(data_url(bytes(500)))),
    ):
        with pytest.raises(DiskFull, match="SPOOL_MAX_BYTES"):
            read(spool, [form(*parts)])
        spool.discard(JOB)
    read(spool, [form(part(data_url(bytes(400))), file_part(bytes(600), name="file"))])
    assert spool.space.claimed == 1000
    spool.complete_audio(JOB)
    assert spool.space.claimed == 1000
    spool.discard_references(JOB)
    assert spool.space.claimed == 600
    spool.close()


# In the service.


ANNA: Final = (SAMPLES / "hello.wav").read_bytes()
BOB: Final = (SAMPLES / "code.flac").read_bytes()
FIELDS: Final = {"stored_output": "true", "diarize": "true", "known_speaker_names[]": ["Anna", "Bob"]}


async def submit(
    running: Running, file: Path | None, voices: Sequence[bytes] = (ANNA, BOB), key: str = "", **fields: str
) -> httpx.Response:
    files = [(f"{NAME}[]", ("voice.wav", voice)) for voice in voices]
    if file is not None:
        files.append(("file", (file.name, await asyncio.to_thread(file.read_bytes))))
    headers = {"Idempotency-Key": key} if key else {}
    return await running.client.post(
        "/v1/audio/transcriptions", data={**FIELDS, **fields}, files=files, headers=headers, timeout=60
    )


async def references(running: Running, job_id: str) -> list[bytes]:
    spool = running.service.jobs.spool
    return await asyncio.to_thread(lambda: [path.read_bytes() for path in spool.references(job_id)])


@pytest.mark.anyio
@pytest.mark.parametrize(
    "keep_audio", ["false", pytest.param("true", marks=pytest.mark.full(reason="starts two services"))]
)
async def test_references_are_there_until_the_audio_is_gone_also_after_a_restart(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held, keep_audio: str
) -> None:
    async with serving(tmp_path / "data", lambda: model) as running:
        accepted = await submit(running, samples / "hello.wav", keep_audio=keep_audio)
        job_id = accepted.json()["job_id"]
        assert "warnings" not in accepted.json()
        assert await references(running, job_id) == [ANNA, BOB]
        await running.service.jobs.runner.stop(job_id)
        held.open.set()  # before the process waits for its threads
        assert await references(running, job_id) == [ANNA, BOB]
    async with serving(tmp_path / "data", lambda: model) as running:
        assert (await running.finished(job_id))["status"] == "completed"
        kept = [ANNA, BOB] if keep_audio == "true" else []
        assert await references(running, job_id) == kept
        size = (samples / "hello.wav").stat().st_size + len(ANNA + BOB) if kept else 0
        assert running.service.jobs.spool.space.claimed == size


@pytest.mark.anyio
@pytest.mark.full(reason="takes more than a second")
async def test_references_wait_for_audio_that_is_downloaded(running: Running, samples: Path, held: Held) -> None:
    audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    async with fault_server(answer(200, audio)) as source:
        job_id = (await submit(running, None, s3_presigned_url=source.url())).json()["job_id"]
        await eventually(lambda: asyncio.to_thread(running.service.jobs.spool.has_audio, job_id))
        assert await references(running, job_id) == [ANNA, BOB]
        assert running.service.jobs.spool.space.claimed == len(audio + ANNA + BOB)
        held.open.set()
        await running.finished(job_id)
    assert await references(running, job_id) == []
    assert running.service.jobs.spool.space.claimed == 0


@pytest.mark.anyio
async def test_references_without_use_are_not_kept(running: Running, samples: Path, held: Held) -> None:
    accepted = (await submit(running, samples / "hello.wav", diarize="false")).json()
    assert [warning.partition(" ")[0] for warning in accepted["warnings"]] == ["`known_speaker_names`", f"`{NAME}`"]
    assert await references(running, accepted["job_id"]) == []
    assert running.service.jobs.spool.space.claimed == (samples / "hello.wav").stat().st_size
    held.open.set()


@pytest.mark.anyio
@pytest.mark.contract
async def test_rejected_references_leave_nothing(running: Running, samples: Path) -> None:
    response = await submit(running, samples / "hello.wav", [ANNA])
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, NAME)
    assert await running.jobs_with_files() == set()
    assert running.service.jobs.spool.space.claimed == 0


@pytest.mark.anyio
@pytest.mark.contract
async def test_replay_has_the_same_references(running: Running, samples: Path) -> None:
    first = await submit(running, samples / "hello.wav", key="one")
    again = await submit(running, samples / "hello.wav", key="one")
    assert again.json() == first.json()
    for voices in ([ANNA, ANNA], [BOB, ANNA]):
        other = await submit(running, samples / "hello.wav", voices, key="one")
        assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency_key_reused")
    assert await running.jobs_with_files() == {first.json()["job_id"]}
