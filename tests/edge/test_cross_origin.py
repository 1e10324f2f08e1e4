"""Cross-origin requests are rejected by a service without keys, and every response has security headers."""

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


@pytest.fixture
def running(shared: Running) -> Running:
    """The service of this module, because no test creates a job."""
    return shared


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://127.0.0.1.evil.example", "null", "http://[", "file://"]
)
async def test_form_from_a_foreign_page_is_rejected(running: Running, origin: str) -> None:
    for path in ("/v1/audio/transcriptions", "/v1/jobs/x/redeliver"):
        rejected = await running.client.post(
            path, content=FORM, headers={"Origin": origin, "Sec-Fetch-Mode": "no-cors"}
        )
        assert (rejected.status_code, rejected.json()["error"]["code"]) == (403, "foreign_page")
        assert "set API_KEYS" in rejected.json()["error"]["message"]
    assert (await running.client.get("/v1/jobs")).json()["total_jobs"] == 0


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:8000", "127.0.0.1.nip.example", "localhost.evil.example"]
)
async def test_foreign_host_name_that_resolves_here_is_rejected(running: Running, name: str) -> None:
    for path in ("/v1/jobs", "/docs", "/metrics"):
        rejected = await running.client.get(path, headers={"Host": name})
        assert (rejected.status_code, rejected.json()["error"]["code"]) == (403, "foreign_page")
    assert (await running.client.get("/health", headers={"Host": name})).status_code == 200


@pytest.mark.parametrize(
    "name", ["localhost:8000", "127.0.0.1", "[::1]:8000", "transcription", "app.localhost", "10.0.0.5"]
)
async def test_local_host_names_are_accepted(running: Running, name: str) -> None:
    for headers in ({"Host": name}, {"Host": name, "Origin": f"http://{name}"}):
        assert (await running.client.get("/v1/jobs", headers=headers)).status_code == 200


async def test_with_keys_any_host_name_and_origin_are_accepted(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha") as running:
        for headers in ({"Host": "speech.example"}, {"Host": "speech.example", "Origin": "https://app.example"}):
            assert (await running.client.get("/v1/jobs", headers=headers | bearer("alpha"))).status_code == 200
            assert (await running.client.get("/v1/jobs", headers=headers)).status_code == 401


async def test_every_response_has_security_headers(running: Running, samples: Path) -> None:
    responses = [
        await running.client.get("/health"),
        await running.client.get("/docs"),
        await running.client.get("/nothing"),
        await running.transcribe(samples / "hello.wav", response_format="text"),
        await running.client.get("/v1/jobs", headers={"Origin": "https://evil.example"}),
    ]
    for response in responses:
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"


async def test_docs_page_allows_only_its_own_scripts(running: Running) -> None:
    policy = (await running.client.get("/docs")).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self' 'sha256-" in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]
