"""Pages of other sites get nothing from a service without keys, and browsers make no more of answers than they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.api.test_keys_and_limits import bearer
from tests.support.service import Running, serving

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel

pytestmark = pytest.mark.anyio

FORM = b"stored_output=true&s3_presigned_url=https%3A%2F%2Fa.example%2Fa.wav"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://127.0.0.1.evil.example", "null", "http://[", "file://"]
)
async def test_form_that_a_foreign_page_sends_is_refused(running: Running, origin: str) -> None:
    for path in ("/v1/audio/transcriptions", "/v1/jobs/x/redeliver"):
        refused = await running.client.post(path, content=FORM, headers={"Origin": origin, "Sec-Fetch-Mode": "no-cors"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "foreign_page")
        assert "set API_KEYS" in refused.json()["error"]["message"]
    assert (await running.client.get("/v1/jobs")).json()["total_jobs"] == 0


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:8000", "127.0.0.1.nip.example", "localhost.evil.example"]
)
async def test_name_of_elsewhere_that_leads_here_reads_nothing(running: Running, name: str) -> None:
    for path in ("/v1/jobs", "/docs", "/metrics"):
        refused = await running.client.get(path, headers={"Host": name})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "foreign_page")
    assert (await running.client.get("/health", headers={"Host": name})).status_code == 200


@pytest.mark.parametrize(
    "name", ["localhost:8000", "127.0.0.1", "[::1]:8000", "transcription", "app.localhost", "10.0.0.5"]
)
async def test_names_of_this_machine_are_answered(running: Running, name: str) -> None:
    for headers in ({"Host": name}, {"Host": name, "Origin": f"http://{name}"}):
        assert (await running.client.get("/v1/jobs", headers=headers)).status_code == 200


async def test_with_keys_a_page_would_need_one_and_names_are_free(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha") as running:
        for headers in ({"Host": "speech.example"}, {"Host": "speech.example", "Origin": "https://app.example"}):
            assert (await running.client.get("/v1/jobs", headers=headers | bearer("alpha"))).status_code == 200
            assert (await running.client.get("/v1/jobs", headers=headers)).status_code == 401


async def test_every_answer_says_that_it_is_what_it_is(running: Running, samples: Path) -> None:
    answers = [
        await running.client.get("/health"),
        await running.client.get("/docs"),
        await running.client.get("/nothing"),
        await running.transcribe(samples / "hello.wav", response_format="text"),
        await running.client.get("/v1/jobs", headers={"Origin": "https://evil.example"}),
    ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


async def test_page_of_docs_runs_its_own_scripts_only(running: Running) -> None:
    policy = (await running.client.get("/docs")).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self' 'sha256-" in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]
