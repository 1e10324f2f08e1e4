"""Form bodies, split into any chunks, and malformed ones."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.api.multipart import ReceivedForm, read_form, reject_empty_file
from app.domain.errors import BodyTooLarge, InvalidRequest, UnusableAudio
from app.jobs.spool import Spool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

BOUNDARY: Final = "----boundary"
FORM: Final = f"multipart/form-data; boundary={BOUNDARY}"
MIB: Final = 1024 * 1024
JOB: Final = "4f0c"
#: Bytes in which a careless parser sees boundaries.
AUDIO: Final = b"RIFF\r\n--\r\n------bound\r\n------boundar\r\n\r\n\x00\xff" + bytes(range(256))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "data")
    spool.open()
    yield spool
    spool.close()


def part(name: str, value: bytes, *, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"\r\nContent-Type: audio/mpeg' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def file_part(audio: bytes = AUDIO, *, filename: str = "talk.mp3", name: str = "file") -> bytes:
    return part(name, audio, filename=filename)


def read(
    spool: Spool,
    body: bytes | Sequence[bytes],
    *,
    content_type: str | None = FORM,
    max_file_bytes: int = 4 * MIB,
) -> ReceivedForm:
    chunks = [body] if isinstance(body, bytes) else body

    async def arriving() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return asyncio.run(read_form(arriving(), content_type, spool=spool, job_id=JOB, max_file_bytes=max_file_bytes))


def rejection(
    spool: Spool, body: bytes | Sequence[bytes], *, content_type: str | None = FORM
) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        read(spool, body, content_type=content_type)
    return str(caught.value), caught.value.param


def kept(spool: Spool) -> bytes:
    """Keep the received audio and return it."""
    spool.complete_audio(JOB)
    return spool.audio_path(JOB).read_bytes()


@pytest.mark.parametrize("position", [0, 1, 2])
def test_file_can_be_any_part_of_the_form(spool: Spool, position: int) -> None:
    parts = [part("model", b"whisper-1"), part("language", b"de")]
    parts.insert(position, file_part())
    received = read(spool, form(*parts))
    assert received.fields == {"model": ["whisper-1"], "language": ["de"]}
    assert received.file_bytes == len(AUDIO)
    assert kept(spool) == AUDIO


def test_digest_is_that_of_the_whole_file(spool: Spool) -> None:
    audio = AUDIO * (MIB // len(AUDIO))  # several writes
    received = read(spool, form(file_part(audio)))
    assert received.file_digest == hashlib.blake2b(audio, digest_size=32).hexdigest()


def test_repeated_fields_keep_all_values_in_order(spool: Spool) -> None:
    received = read(spool, form(part("a[]", b"1"), part("b", b""), part("a[]", "ü\r\n".encode())))
    assert received.fields == {"a[]": ["1", "ü\r\n"], "b": [""]}
    assert received.file_bytes is None


def test_form_without_parts_is_empty(spool: Spool) -> None:
    assert read(spool, form()) == ReceivedForm()


BODY: Final = form(
    part("model", b"whisper-1"),
    file_part(),
    part("prompt", "Grüße,\r\n--".encode()),
    part("timestamp_granularities[]", b"word"),
    part("timestamp_granularities[]", b"segment"),
)


@given(st.lists(st.integers(0, len(BODY)), max_size=12).map(sorted))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_body_is_parsed_alike_however_it_is_split(spool: Spool, cuts: list[int]) -> None:
    spool.discard(JOB)
    edges = [0, *cuts, len(BODY)]
    check_body(read(spool, [BODY[start:end] for start, end in pairwise(edges)]), spool)


def test_body_can_arrive_byte_by_byte(spool: Spool) -> None:
    check_body(read(spool, [bytes([byte]) for byte in BODY]), spool)


def check_body(received: ReceivedForm, spool: Spool) -> None:
    assert received.fields == {
        "model": ["whisper-1"],
        "prompt": ["Grüße,\r\n--"],
        "timestamp_granularities[]": ["word", "segment"],
    }
    assert received.file_bytes == len(AUDIO)
    assert kept(spool) == AUDIO


@given(st.integers(0, len(BODY) - 5))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_truncated_body_is_rejected(spool: Spool, length: int) -> None:
    spool.discard(JOB)
    with pytest.raises(InvalidRequest, match="before its last boundary"):
        read(spool, BODY[:length])
    assert not spool.has_audio(JOB)


def test_large_file_is_written_completely(spool: Spool) -> None:
    audio = AUDIO * (3 * MIB // len(AUDIO))
    body = form(file_part(audio))
    received = read(spool, [body[start : start + 65_536] for start in range(0, len(body), 65_536)])
    assert received.file_bytes == len(audio)
    assert kept(spool) == audio


def test_two_files_are_rejected(spool: Spool) -> None:
    assert rejection(spool, form(file_part(), file_part())) == (
        "The form has more than one file: send one file per request.",
        "file",
    )


def test_empty_file_is_received_and_then_rejected(spool: Spool) -> None:
    received = read(spool, form(file_part(b"")))
    assert received.file_bytes == 0
    with pytest.raises(UnusableAudio) as caught:
        reject_empty_file(received)
    assert str(caught.value) == "The file is empty: send a file with audio in it."
    reject_empty_file(ReceivedForm(file_bytes=1))
    reject_empty_file(ReceivedForm(file_bytes=None))


def test_file_with_another_field_name_is_ignored(spool: Spool) -> None:
    received = read(spool, form(file_part(name="recording"), part("model", b"small")))
    assert received == ReceivedForm(fields={"model": ["small"]}, ignored_file="recording")
    assert not spool.audio_path(JOB).parent.exists()


@pytest.mark.parametrize("name", ["file", "file[]", "audio", "audio_file"])
def test_names_that_other_servers_give_the_file_are_accepted(spool: Spool, name: str) -> None:
    assert read(spool, form(file_part(name=name))).file_bytes == len(AUDIO)
    assert kept(spool) == AUDIO


def test_file_part_without_a_file_name_is_text(spool: Spool) -> None:
    received = read(spool, form(part("file", b"@talk.mp3")))
    assert received == ReceivedForm(fields={"file": ["@talk.mp3"]})


@pytest.mark.parametrize(
    "head",
    [
        pytest.param("; filename*=UTF-8''na%C3%AFve.mp3", id="encoded file name"),
        pytest.param('\r\nContent-Type: audio/ogg; codecs="opus"', id="blob with a type"),
        pytest.param("\r\ncontent-type: application/octet-stream", id="bytes"),
    ],
)
def test_part_with_an_encoded_file_name_or_a_media_type_is_a_file(spool: Spool, head: str) -> None:
    body = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"{head}\r\n\r\n'.encode() + AUDIO + b"\r\n"
    assert read(spool, form(body)).file_bytes == len(AUDIO)
    assert kept(spool) == AUDIO


@pytest.mark.parametrize(
    ("sent", "read_as"),
    [
        ('"whisper-1"', "whisper-1"),
        ('"\\u00fc \\"x\\""', 'ü "x"'),
        ('["a", "b"]', '["a", "b"]'),
        ("0.5", "0.5"),
        ("true", "true"),
        ("whisper-1", "whisper-1"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_string_in_json_is_read_as_its_text(spool: Spool, sent: str, read_as: str) -> None:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\nContent-Type: application/json\r\n\r\n'
    assert read(spool, form(f"{head}{sent}\r\n".encode())).fields == {"model": [read_as]}


@pytest.mark.parametrize("preamble", [b"\r\n", b"This is a form.\r\n", b"--other\r\n", b"\n" * 1000, b"-\r\n--\r\n"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_text_before_the_first_boundary_is_ignored(spool: Spool, preamble: bytes, size: int) -> None:
    body = preamble + form(file_part(), part("model", b"small"))
    received = read(spool, [body[start : start + size] for start in range(0, len(body), size)])
    assert received.fields == {"model": ["small"]}
    assert kept(spool) == AUDIO


def test_endless_text_before_the_first_boundary_is_rejected(spool: Spool) -> None:
    chunks = [b"x" * 10_000] * 100
    assert rejection(spool, chunks)[0].startswith("The form is malformed")


@pytest.mark.parametrize("filename", ["../../etc/passwd", "", "a;b.mp3", "ü.mp3", "C:\\talk.mp3"])
def test_file_name_is_ignored(spool: Spool, filename: str) -> None:
    assert read(spool, form(file_part(filename=filename))).file_bytes == len(AUDIO)
    assert kept(spool) == AUDIO


def test_header_names_are_case_insensitive(spool: Spool) -> None:
    head = f"--{BOUNDARY}\r\ncontent-type: audio/mpeg\r\nCONTENT-DISPOSITION: form-data; name=file; filename=a\r\n\r\n"
    assert read(spool, form(head.encode() + AUDIO + b"\r\n")).file_bytes == len(AUDIO)


@pytest.mark.parametrize("size", [100, 3 * MIB])
def test_file_over_the_limit_is_rejected_and_leaves_nothing(spool: Spool, size: int) -> None:
    body = form(file_part(b"x" * (size + 1)))
    chunks = [body[start : start + 65_536] for start in range(0, len(body), 65_536)]
    with pytest.raises(BodyTooLarge) as caught:
        read(spool, chunks, max_file_bytes=size)
    assert str(caught.value) == (
        f"The file is too large: MAX_UPLOAD_BYTES allows {size} bytes. Send compressed audio (Opus, MP3), or split it."
    )
    assert caught.value.param == "file"
    spool.discard(JOB)  # as the caller does
    assert not spool.audio_path(JOB).parent.exists()
    assert read(spool, form(file_part(b"x" * size)), max_file_bytes=size).file_bytes == size


def test_file_over_the_limit_is_rejected_before_its_rest_arrives(spool: Spool) -> None:
    chunks = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal chunks
        yield form(file_part(b"x" * 1000))[:-50]
        while True:
            chunks += 1
            yield b"x" * 1000

    with pytest.raises(BodyTooLarge):
        asyncio.run(read_form(endless(), FORM, spool=spool, job_id=JOB, max_file_bytes=10_000))
    assert chunks <= 11


def test_fields_with_too_much_text_are_rejected(spool: Spool) -> None:
    message = (
        f"The form's fields hold too much text: at most {MIB} bytes are allowed. Send audio as the part `file`, with a "
        "file name."
    )
    assert rejection(spool, form(part("prompt", b"x" * (MIB + 1)))) == (message, "prompt")
    halves = form(part("a", b"x" * (MIB // 2)), part("b", b"x" * (MIB // 2 + 1)))
    assert rejection(spool, halves) == (message, "b")
    assert read(spool, form(part("prompt", b"x" * MIB))).fields == {"prompt": ["x" * MIB]}


def test_too_many_parts_are_rejected(spool: Spool) -> None:
    assert len(read(spool, form(*[part("a", b"")] * 256)).fields["a"]) == 256
    assert rejection(spool, form(*[part("a", b"")] * 257)) == (
        "The form has too many parts: at most 256 are allowed.",
        None,
    )


def test_endless_part_header_is_rejected(spool: Spool) -> None:
    chunks = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal chunks
        yield f"--{BOUNDARY}\r\nX-Endless: ".encode()
        while True:
            chunks += 1
            yield b"x" * 1000

    with pytest.raises(InvalidRequest, match="The form is malformed"):
        asyncio.run(read_form(endless(), FORM, spool=spool, job_id=JOB, max_file_bytes=MIB))
    assert chunks <= 5


def test_long_field_name_is_rejected(spool: Spool) -> None:
    message = "A field's name is longer than 256 bytes: see /docs for the fields of this form."
    assert rejection(spool, form(part("x" * 257, b""))) == (message, None)
    assert rejection(spool, b"x" * 257 + b"=1", content_type="application/x-www-form-urlencoded") == (message, None)
    assert read(spool, form(part("x" * 256, b"1"))).fields == {"x" * 256: ["1"]}


@pytest.mark.parametrize("where", ["before", "in an ignored file", "after"])
def test_endless_body_is_rejected(spool: Spool, where: str) -> None:
    chunks = 0
    begin = {"before": b"", "in an ignored file": part("other", b"", filename="b")[:-2], "after": form()}[where]

    async def endless() -> AsyncIterator[bytes]:
        nonlocal chunks
        yield begin
        while chunks < 100:
            chunks += 1
            yield b"x" * MIB

    with pytest.raises((BodyTooLarge, InvalidRequest)):
        asyncio.run(read_form(endless(), FORM, spool=spool, job_id=JOB, max_file_bytes=MIB))
    assert chunks <= 34


def test_text_that_is_not_utf_8_is_rejected(spool: Spool) -> None:
    message, param = rejection(spool, form(part("prompt", b"Gr\xfc\xdfe")))
    assert message.startswith("`prompt` must be text in UTF-8")
    assert param == "prompt"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--",
        BODY.replace(b"----boundary", b"----elsewhere"),
        b"\x00" * 100,
        b'{"file": "talk.mp3"}',
        BODY.replace(b"\r\n", b"\n"),
        form(part("a", b"1")).replace(b'name="a"\r\n\r\n', b'name="a"\r\n'),
    ],
)
def test_malformed_form_is_rejected_with_an_example(spool: Spool, body: bytes) -> None:
    message, param = rejection(spool, body)
    assert message.startswith("The form ")
    assert "multipart/form-data, for example with curl -F file=@audio.mp3" in message
    assert param is None


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "text/plain",
        "multipart/form-data",
        "multipart/mixed; boundary=x",
        "audio/mpeg",
        ";",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 10_000,
    ],
)
def test_body_that_is_not_a_form_is_rejected(spool: Spool, content_type: str | None) -> None:
    message, param = rejection(spool, BODY, content_type=content_type)
    assert message.endswith("multipart/form-data, for example with curl -F file=@audio.mp3.")
    assert param is None


@given(st.binary(max_size=200), st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_bytes_are_parsed_or_rejected(spool: Spool, before: bytes, inside: bytes) -> None:
    for body in (before + BODY, BODY[:100] + inside + BODY[100:], f"--{BOUNDARY}\r\n".encode() + inside):
        spool.discard(JOB)
        with suppress(InvalidRequest):
            read(spool, body)


def test_urlencoded_form_is_read(spool: Spool) -> None:
    body = b"url=https%3A%2F%2Fa.example%2Fk%3Fa%3D1%26b%3D2&prompt=Gr%C3%BC%C3%9Fe+an+alle&a=1&a=2&empty="
    received = read(spool, [body[:20], body[20:]], content_type="application/x-www-form-urlencoded; charset=utf-8")
    assert received.file_bytes is None
    assert received.fields == {
        "url": ["https://a.example/k?a=1&b=2"],
        "prompt": ["Grüße an alle"],
        "a": ["1", "2"],
        "empty": [""],
    }


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"a=" + b"x" * MIB, "too large for this encoding"),
        (b"&".join([b"a=1"] * 257), "malformed"),
        (b"prompt=Gr\xfc", "in UTF-8"),
    ],
)
def test_malformed_urlencoded_form_is_rejected(spool: Spool, body: bytes, reason: str) -> None:
    message, _ = rejection(spool, body, content_type="application/x-www-form-urlencoded")
    assert reason in message


def test_urlencoded_text_that_is_not_utf_8_is_rejected(spool: Spool) -> None:
    rejection(spool, b"prompt=Gr%FC%DFe", content_type="application/x-www-form-urlencoded")
