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


def own(running: Running) -> str:
    return running.address.removeprefix("http://")


async def submitted(running: Running, **headers: str) -> int:
    """Return the status of a form that a page sends. It has no audio, so an accepted one is a 400."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return (await running.client.post("/v1/audio/transcriptions", content=b"model=demo", headers=names)).status_code


@pytest.mark.parametrize("origin", ["http://{host}:1", "https://{host}:{port}", "http://{host}", "https://{host}"])
async def test_scheme_and_port_of_a_page_count(running: Running, origin: str) -> None:
    host, _, port = own(running).partition(":")
    assert await submitted(running, Origin=origin.format(host=host, port=port)) == 403
    assert await submitted(running, Origin=f"http://{host}:{port}") == 400
    assert await submitted(running, Origin=f"HTTP://{host}:{port}") == 400


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:80", "http://localhost"),
        ("localhost", "http://localhost:80"),
        ("LOCALHOST", "http://localhost"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("[0:0::1]:8000", "http://[::1]:8000"),
    ],
)
async def test_default_port_and_spelling_make_no_difference(running: Running, host: str, origin: str) -> None:
    assert await submitted(running, Host=host, Origin=origin) == 400


@pytest.mark.parametrize("site", ["same-site", "cross-site", "unheard-of"])
async def test_browser_that_names_a_foreign_site_is_believed(running: Running, site: str) -> None:
    assert await submitted(running, Sec_Fetch_Site=site) == 403
    assert await submitted(running, Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate") == 403
    assert await submitted(running, Sec_Fetch_Site=site, Origin=running.address) == 403
    for mode, status in (("navigate", 200), ("no-cors", 403), ("cors", 403)):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
        for path in ("/", "/docs", "/v1/jobs"):
            assert (await running.client.get(path, headers=headers)).status_code == status


@pytest.mark.parametrize("site", ["same-origin", "none"])
async def test_own_page_is_accepted_behind_a_proxy_that_hides_its_origin(running: Running, site: str) -> None:
    assert await submitted(running, Sec_Fetch_Site=site, Origin="https://speech.example") == 400


async def test_trusted_proxy_names_scheme_and_host(running: Running) -> None:
    page = "https://speech.example:8443"
    forwarded = {"X_Forwarded_Proto": "https", "X_Forwarded_For": "203.0.113.7"}
    assert await submitted(running, Origin=page, Host="127.0.0.1:8000") == 403
    assert await submitted(running, Origin=page, Host="127.0.0.1:8000", **forwarded) == 403
    for host in ("speech.example:8443", "speech.example:8443, 127.0.0.1"):
        assert await submitted(running, Origin=page, Host="127.0.0.1:8000", **forwarded, X_Forwarded_Host=host) == 400
    own_host = {"Host": own(running)}
    assert await submitted(running, Origin=f"https://{own(running)}", **own_host, X_Forwarded_Proto="https") == 400
    assert await submitted(running, Origin=f"http://{own(running)}", **own_host, X_Forwarded_Proto="https") == 403


async def test_proxy_that_is_not_trusted_names_nothing(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, forwarded_allow_ips="10.0.0.1") as running:
        forwarded = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "speech.example"}
        assert await submitted(running, Origin="https://speech.example", **forwarded) == 403
        assert await submitted(running, Origin="http://speech.example", **forwarded) == 403
        assert await submitted(running, Origin=running.address, **forwarded) == 400


@pytest.mark.parametrize("keys", ["", "sk-test"])
async def test_page_of_an_allowed_origin_can_use_the_api(tmp_path: Path, model: WhisperModel, keys: str) -> None:
    page, key = "https://app.example", bearer("sk-test") if keys else {}
    origins = f"http://localhost:3000, {page}/"
    async with serving(tmp_path / "data", lambda: model, api_keys=keys, cors_allowed_origins=origins) as running:
        preflight = await running.client.options(
            "/v1/jobs/x",
            headers={
                "Origin": page,
                "Sec-Fetch-Site": "cross-site",
                "Access-Control-Request-Method": "PATCH",
                "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
            },
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == page
        assert "PATCH" in preflight.headers["access-control-allow-methods"]
        assert preflight.headers["access-control-allow-headers"] == "authorization,content-type,idempotency-key"
        assert "access-control-allow-credentials" not in preflight.headers

        headers = {"Origin": page, "Sec-Fetch-Site": "cross-site"}
        for path, status in (("/v1/jobs", 200), ("/v1/jobs/x", 404), ("/v1/server", 200)):
            response = await running.client.get(path, headers=headers | key)
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == page
            assert "Origin" in response.headers["vary"]
            assert "Retry-After" in response.headers["access-control-expose-headers"]
        if keys:
            refused = await running.client.get("/v1/jobs", headers=headers)
            assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, page)


@pytest.mark.parametrize("keys", ["", "sk-test"])
async def test_page_of_another_origin_is_told_nothing(tmp_path: Path, model: WhisperModel, keys: str) -> None:
    key = bearer("sk-test") if keys else {}
    allowed = "https://app.example"
    async with serving(tmp_path / "data", lambda: model, api_keys=keys, cors_allowed_origins=allowed) as running:
        for origin in ("https://app.example:8443", "http://app.example", "https://evil.example", "null"):
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            for response in (
                await running.client.options("/v1/jobs", headers=asked),
                await running.client.get("/v1/jobs", headers={"Origin": origin} | key),
            ):
                assert "access-control-allow-origin" not in response.headers
                assert response.status_code == (200 if keys and response.request.method == "GET" else 403)


@pytest.mark.parametrize(
    ("origin", "method", "sentence"),
    [
        ("https://evil.example", "POST", "Pages of https://evil.example cannot use this server: add"),
        ("null", "POST", "Pages of another site cannot use this server: add the page to CORS_ALLOWED_ORIGINS."),
        ("https://app.example", "TRACE", "Pages cannot send TRACE requests: use GET, HEAD, POST, PUT, PATCH, DELETE."),
    ],
)
async def test_refused_preflight_is_an_error_of_the_api(
    tmp_path: Path, model: WhisperModel, origin: str, method: str, sentence: str
) -> None:
    allowed = "https://app.example"
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-test", cors_allowed_origins=allowed) as running:
        asked = {"Origin": origin, "Access-Control-Request-Method": method}
        response = await running.client.options("/v1/jobs", headers=asked)
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "foreign_page"
    assert response.json()["error"]["message"].startswith(sentence)
    assert "Origin" in response.headers["vary"]
    assert "access-control-allow-origin" not in response.headers


async def test_every_origin_can_be_allowed_with_keys(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-test", cors_allowed_origins="*") as running:
        response = await running.client.get("/v1/jobs", headers={"Origin": "null"} | bearer("sk-test"))
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "*")


async def test_without_the_setting_no_response_is_shared(running: Running) -> None:
    for headers in ({}, {"Origin": running.address}, {"Origin": "https://evil.example"}):
        response = await running.client.get("/v1/jobs", headers=headers)
        assert [name for name in response.headers if name.startswith("access-control")] == []


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
