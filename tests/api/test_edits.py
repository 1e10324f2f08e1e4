"""Correcting transcripts: what is answered, and that every rendering has the corrections."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.fault_server import answer, fault_server
from tests.support.service import Running, serving

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held

pytestmark = [pytest.mark.anyio, pytest.mark.contract]

HELLO = "hello this is a test the job is complete now"
WORDS = {"timestamp_granularities[]": "word"}
UNTOUCHED: Final[dict[str, Any]] = {"segments": [], "words": [], "speakers": {}}


async def submit_job(running: Running, samples: Path) -> str:
    job_id = await running.submit(samples / "hello.wav", stored_output="true", **WORDS)
    await running.finished(job_id)
    return job_id


async def submit_call(running: Running, samples: Path) -> str:
    file = samples / "two_speakers_stereo.flac"
    call_id = await running.submit(file, stored_output="true", multichannel="true", **WORDS)
    await running.finished(call_id)
    return call_id


@pytest.fixture
async def job_id(shared: Running, samples: Path) -> str:
    """The id of a completed job with word times."""
    return await submit_job(shared, samples)


@pytest.fixture
async def call_id(shared: Running, samples: Path) -> str:
    """The id of a completed job with a speaker on each of its two channels."""
    return await submit_call(shared, samples)


@pytest.fixture(scope="module")
async def untouched_id(shared: Running, samples: Path) -> str:
    """The id of a job like ``job_id``, for all tests that change nothing."""
    return await submit_job(shared, samples)


@pytest.fixture(scope="module")
async def untouched_call_id(shared: Running, samples: Path) -> str:
    """The id of a job like ``call_id``, for all tests that change nothing."""
    return await submit_call(shared, samples)


async def put(running: Running, job_id: str, *segments: tuple[int, str], **headers: str) -> httpx.Response:
    body = {"segments": [{"id": number, "text": text} for number, text in segments]}
    return await running.client.put(f"/v1/jobs/{job_id}/transcript", json=body, headers=headers)


async def name(running: Running, job_id: str, speakers: Any, *segments: tuple[int, str]) -> httpx.Response:
    body = {"segments": [{"id": number, "text": text} for number, text in segments], "speakers": speakers}
    return await running.client.put(f"/v1/jobs/{job_id}/transcript", content=json.dumps(body))


async def result(running: Running, job_id: str, response_format: str, **params: str) -> str:
    response = await running.client.get(
        f"/v1/jobs/{job_id}/result", params={"response_format": response_format, **params}
    )
    assert response.status_code == 200, response.text
    return response.text


async def segments_of(running: Running, job_id: str) -> list[dict[str, Any]]:
    segments: list[dict[str, Any]] = (await running.job(job_id, include_result="true"))["result"]["segments"]
    return segments


async def test_correction_is_answered_with_its_segments_and_words(shared: Running, job_id: str) -> None:
    untouched = await shared.client.get(f"/v1/jobs/{job_id}/transcript")
    assert (untouched.json(), untouched.headers["etag"]) == ({"job_id": job_id, **UNTOUCHED}, '"0"')
    before = (await shared.job(job_id, include_result="true"))["result"]
    first = before["segments"][0]
    response = await put(shared, job_id, (0, first["text"].replace("this", "That")))
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["edited_at"] == pytest.approx(time.time(), abs=60)
    assert (await shared.job(job_id))["edited_at"] == body["edited_at"]
    assert body["segments"] == [{**first, "text": first["text"].replace("this", "That"), "tokens": []}]
    old = [word for word in before["words"] if word["segment"] == 0]
    assert body["words"] == [
        {**word, "word": "That", "probability": 1.0} if word["word"] == "this" else word for word in old
    ]
    read = await shared.client.get(f"/v1/jobs/{job_id}/transcript")
    assert (read.json(), read.headers["etag"]) == (body, response.headers["etag"])


async def test_every_format_has_the_corrections_and_the_original_is_there(shared: Running, job_id: str) -> None:
    formats = ("json", "text", "srt", "vtt", "tsv", "verbose_json", "document")
    before = {name: await result(shared, job_id, name) for name in formats}
    await put(shared, job_id, *((segment["id"], "Täst.") for segment in (await segments_of(shared, job_id))[:1]))
    for name in formats:
        edited = await result(shared, job_id, name)
        assert "Täst." in edited
        assert edited == await result(shared, job_id, name, version="edited")
        assert await result(shared, job_id, name, version="original") == before[name]
        assert "Täst." not in before[name]
    document = json.loads(await result(shared, job_id, "document"))
    assert (await shared.job(job_id, include_result="true"))["result"] == document
    other = await shared.client.get(f"/v1/jobs/{job_id}/result", params={"version": "older"})
    assert (other.status_code, other.json()["error"]["param"]) == (400, "version")


async def test_empty_text_removes_a_segment_and_an_empty_list_restores_all(shared: Running, job_id: str) -> None:
    before = await segments_of(shared, job_id)
    answered = await put(shared, job_id, (0, " "))
    assert [segment["text"] for segment in answered.json()["segments"]] == [""]
    assert await segments_of(shared, job_id) == before[1:]
    assert (await put(shared, job_id)).json() == {"job_id": job_id, **UNTOUCHED}
    assert await segments_of(shared, job_id) == before
    assert "edited_at" not in await shared.job(job_id)


async def test_new_corrections_replace_all_earlier_ones(shared: Running, job_id: str) -> None:
    before = await segments_of(shared, job_id)
    await put(shared, job_id, (0, "one"))
    last = before[-1]["id"]
    first_again = await put(shared, job_id, (last, "two"))
    assert [segment["id"] for segment in first_again.json()["segments"]] == [last]


async def test_edit_of_another_version_is_refused(shared: Running, job_id: str) -> None:
    first = await put(shared, job_id, (0, "one"), **{"If-Match": '"0"'})
    assert first.status_code == 200
    for etag in ('"0"', f"W/{first.headers['etag']}", "0", '""'):
        refused = await put(shared, job_id, (0, "two"), **{"If-Match": etag})
        assert (refused.status_code, refused.json()["error"]["code"]) == (412, "edit_conflict")
        assert f"get /v1/jobs/{job_id}/transcript" in refused.json()["error"]["message"]
    for etag in (first.headers["etag"], "*", f'"x", {first.headers["etag"]}'):
        assert (await put(shared, job_id, (0, "one"), **{"If-Match": etag})).status_code == 200


async def test_of_edits_at_once_one_wins(shared: Running, job_id: str) -> None:
    edits = (put(shared, job_id, (0, f"text {number}"), **{"If-Match": '"0"'}) for number in range(8))
    statuses = [response.status_code for response in await asyncio.gather(*edits)]
    assert sorted(statuses) == [200] + [412] * 7


async def test_same_edit_again_changes_nothing(shared: Running, job_id: str) -> None:
    first, second = [await put(shared, job_id, (0, "one")) for _ in range(2)]
    assert first.json() == second.json()
    assert first.headers["etag"] == second.headers["etag"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", 'The body must be a JSON object such as {"segments": [{"id": 3, "text": "'),
        (b"[]", "The body must be a JSON object"),
        (b"{}", "The body must be a JSON object"),
        (b'{"segments": {}}', "The body must be a JSON object"),
        (b"[" * 100_000, "The body must be a JSON object"),
        (b'{"segments": [1]}', "`segments` must be a list of objects with an `id`"),
        (b'{"segments": [{"id": 0}]}', "`segments` must be a list of objects"),
        (b'{"segments": [{"id": true, "text": "a"}]}', "`segments` must be a list of objects"),
        (b'{"segments": [{"id": 0.5, "text": "a"}]}', "`segments` must be a list of objects"),
        (b'{"segments": [{"id": 0, "text": null}]}', "`segments` must be a list of objects"),
        (
            b'{"segments": [{"id": 0, "text": "a"}, {"id": 0, "text": "a"}]}',
            "Segment 0 is there twice",
        ),
        (b'{"segments": [], "speakers": []}', "`speakers` must be an object with a name, a string, for each label"),
        (b'{"segments": [], "speakers": null}', "`speakers` must be an object"),
        (b'{"segments": [], "speakers": {"A": null}}', "`speakers` must be an object"),
        (b'{"segments": [], "speakers": {"A": "Anna"}}', "submit the recording again with `diarize=true`, or with"),
        (b'{"segments": [{"id": 999, "text": "a"}]}', "There is no segment 999 in this transcript"),
        (b'{"segments": [{"id": 0, "text": "\\ud83d"}]}', "The text of segment 0 has half of a surrogate pair"),
        (b'{"segments": [{"id": 0, "text": "' + b"a" * 2001 + b'"}]}', "must have at most 2000 characters, got 2001"),
        (b" " * (8 * 1024 * 1024 + 1), "The body must have at most 8388608 bytes."),
    ],
    ids=range(19),
)
async def test_impossible_edit_is_rejected_with_one_sentence(
    shared: Running, untouched_id: str, body: bytes, message: str
) -> None:
    response = await shared.client.put(f"/v1/jobs/{untouched_id}/transcript", content=body)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]
    assert (await shared.client.get(f"/v1/jobs/{untouched_id}/transcript")).headers["etag"] == '"0"'


async def test_name_of_a_speaker_is_in_every_format(shared: Running, call_id: str) -> None:
    formats = ("text", "srt", "vtt", "rttm", "verbose_json", "diarized_json", "document")
    before = {format_: await result(shared, call_id, format_) for format_ in formats}
    unchanged = {format_: await result(shared, call_id, format_) for format_ in ("json", "tsv")}
    response = await name(shared, call_id, {"A": " Anna & Ben "})
    assert response.status_code == 200, response.text
    assert response.json()["speakers"] == {"A": "Anna & Ben"}
    assert response.json()["segments"] == []
    assert (await shared.job(call_id))["edited_at"] == response.json()["edited_at"]
    shown = {"vtt": "<v Anna &amp; Ben>", "rttm": " Anna_&_Ben ", "text": "Anna & Ben: ", "srt": "Anna & Ben: "}
    hidden = {"vtt": "<v A>", "rttm": " A ", "text": "A: ", "srt": "A: "}
    for format_ in formats:
        named = await result(shared, call_id, format_)
        assert shown.get(format_, '"speaker":"Anna & Ben"') in named
        assert hidden.get(format_, '"speaker":"A"') not in named
        assert await result(shared, call_id, format_, version="original") == before[format_]
    assert {format_: await result(shared, call_id, format_) for format_ in unchanged} == unchanged
    read = await shared.client.get(f"/v1/jobs/{call_id}/transcript")
    assert (read.json(), read.headers["etag"]) == (response.json(), response.headers["etag"])


async def test_named_channels_give_every_word_its_speaker(shared: Running, call_id: str) -> None:
    await name(shared, call_id, {"B": "Ben"})
    document = json.loads(await result(shared, call_id, "document"))
    for spoken in (*document["segments"], *document["words"]):
        assert spoken["speaker"] == {0: "A", 1: "Ben"}[spoken["channel"]]


async def test_names_are_replaced_and_restored_with_each_edit(shared: Running, call_id: str) -> None:
    before = await result(shared, call_id, "document")
    await name(shared, call_id, {"A": "Anna"}, (0, "one"))
    renamed = await name(shared, call_id, {"B": "Ben"}, (0, "one"))
    assert renamed.json()["speakers"] == {"B": "Ben"}
    assert [segment["speaker"] for segment in renamed.json()["segments"]] == ["A"]
    assert {word["speaker"] for word in renamed.json()["words"]} == {"A"}
    texts_only = await name(shared, call_id, {}, (0, "one"))
    assert texts_only.json()["speakers"] == {}
    assert "speaker" not in texts_only.json()["segments"][0]
    assert (await name(shared, call_id, {"A": "A"})).json() == {"job_id": call_id, **UNTOUCHED}
    assert "edited_at" not in await shared.job(call_id)
    assert await result(shared, call_id, "document") == before


async def test_names_are_a_part_of_the_version(shared: Running, call_id: str) -> None:
    texts = await put(shared, call_id, (0, "one"))
    named = await name(shared, call_id, {"A": "Anna"}, (0, "one"))
    again = await name(shared, call_id, {"A": " Anna "}, (0, "one"))
    assert texts.headers["etag"] != named.headers["etag"] == again.headers["etag"]
    assert again.json() == named.json()
    assert (await put(shared, call_id, (0, "one"), **{"If-Match": texts.headers["etag"]})).status_code == 412


@pytest.mark.parametrize(
    ("speakers", "message"),
    [
        ({"C": "Cleo"}, "There is no speaker C in this transcript: its speakers are A, B."),
        ({"A": "x" * 65}, "The name of speaker A must have 1 to 64 characters, got 65."),
        ({"A": "x\u2028y"}, "The name of speaker A has a line break or another character that can't be shown"),
        ({"\ud83d": "x"}, "There is no speaker ? in this transcript"),
    ],
)
async def test_impossible_name_is_rejected_with_one_sentence(
    shared: Running, untouched_call_id: str, speakers: dict[str, str], message: str
) -> None:
    response = await name(shared, untouched_call_id, speakers)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "speakers")
    assert message in error["message"]
    transcript = await shared.client.get(f"/v1/jobs/{untouched_call_id}/transcript")
    assert transcript.json() == {"job_id": untouched_call_id, **UNTOUCHED}


async def test_job_without_a_result_has_nothing_to_correct(running: Running, held: Held, samples: Path) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true")
    for response in (await put(running, job_id), await running.client.get(f"/v1/jobs/{job_id}/transcript")):
        assert (response.status_code, response.json()["error"]["code"]) == (400, "no_result")
    held.open.set()


async def test_only_the_owner_can_correct(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    alpha, beta = {"Authorization": "Bearer alpha"}, {"Authorization": "Bearer beta"}
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha,beta") as running:
        files = {"file": ("hello.wav", (samples / "hello.wav").read_bytes())}
        accepted = await running.client.post(
            "/v1/audio/transcriptions", files=files, data={"stored_output": "true"}, headers=alpha
        )
        job_id = accepted.json()["job_id"]
        assert (await put(running, job_id)).status_code == 401
        assert (await put(running, job_id, **beta)).status_code == 404


@pytest.mark.full(reason="takes more than a second")
async def test_redelivery_names_the_speakers(running: Running, samples: Path) -> None:
    form = {"stored_output": "true", "multichannel": "true", "response_format": "text"}
    job_id = await running.submit(samples / "two_speakers_stereo.flac", **form)
    await running.finished(job_id)
    await name(running, job_id, {"A": "Anna"})
    async with fault_server(answer(200)) as bucket:
        await running.client.post(f"/v1/jobs/{job_id}/redeliver", json={"upload_presigned_url": bucket.url()})
        await running.finished(job_id)
    (request,) = bucket.requests
    assert {line.partition(": ")[0] for line in request.body.decode().splitlines()} == {"Anna", "B"}


async def test_redelivery_sends_the_edited_version(running: Running, samples: Path) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true", response_format="text")
    await running.finished(job_id)
    segments = await segments_of(running, job_id)
    await put(running, job_id, *((segment["id"], "edited" if not segment["id"] else "") for segment in segments))
    async with fault_server(answer(200)) as bucket:
        await running.client.post(f"/v1/jobs/{job_id}/redeliver", json={"upload_presigned_url": bucket.url()})
        await running.finished(job_id)
    assert [request.body for request in bucket.requests] == [b"edited\n"]


@pytest.mark.full(reason="takes more than a second")
async def test_edit_survives_a_restart(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model) as running:
        job_id = await running.submit(samples / "hello.wav", stored_output="true")
        await running.finished(job_id)
        edited = await put(running, job_id, (0, "edited"))
    async with serving(tmp_path / "data", lambda: model) as running:
        read = await running.client.get(f"/v1/jobs/{job_id}/transcript")
        assert (read.json(), read.headers["etag"]) == (edited.json(), edited.headers["etag"])
        assert (await running.job(job_id))["edited_at"] == edited.json()["edited_at"]
        assert (await result(running, job_id, "text")).startswith("edited")
