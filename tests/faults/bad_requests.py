"""Invalid requests with a secret in every part that can hold one."""

from __future__ import annotations

import base64
import json
import socket
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from tests.faults.signed_urls import Signer, malformed, signed, unfit_for_uploads, unusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import httpx

    from tests.support.marked_secrets import Secrets

    Form = dict[str, Any]

TRANSCRIPTIONS: Final = "/v1/audio/transcriptions"
#: Fields that do not hold a URL.
_OTHER_FIELDS: Final = (
    *("model", "language", "response_format", "temperature", "beam_size", "vad_filter", "stream", "include[]"),
    *("timestamp_granularities[]", "multichannel", "stored_output", "task", "chunking_strategy", "metadata"),
    *("chunking_strategy[threshold]", "max_line_width", "highlight_words", "word_timestamps"),
)
_RESPONSE_SECONDS: Final = 5.0


def wrong_forms(secrets: Secrets, base: str) -> Iterator[tuple[str, Form]]:
    """Yield invalid forms, each with a description. Those without a URL of the audio need a file."""
    for field in ("s3_presigned_url", "audio_url", "upload_presigned_url", "webhook_url"):
        for case, url in malformed(secrets).items():
            yield f"{field}: {case}", {field: url}
    for field in ("url", "upload_presigned_url"):
        for case, url in unusable(base, secrets).items():
            yield f"{field}: {case}", {field: url}
    for case, url in unfit_for_uploads(base, secrets).items():
        yield f"upload_presigned_url: {case}", {"upload_presigned_url": url}
    for field in _OTHER_FIELDS:
        for url in (f"http://a/?sig={secrets.make()}", signed(base, Signer.V4, secrets)):
            yield f"a URL in {field}", {field: url}
    for case, headers in _wrong_headers(secrets):
        url = signed(base, Signer.OWN, secrets)
        yield f"upload_headers: {case}", {"upload_presigned_url": url, "upload_headers": headers}
    for field in ("upload_headers", "upload_format"):
        yield (
            f"{field} with a URL in it",
            {
                "upload_presigned_url": signed(base, Signer.V2, secrets),
                field: signed(base, Signer.V2, secrets),
            },
        )
    yield "two files", {"s3_presigned_url": signed(base, Signer.V2, secrets), "url": signed(base, Signer.V2, secrets)}
    yield "two URLs", {"webhook_url": [signed(base, Signer.OWN, secrets), signed(base, Signer.OWN, secrets)]}
    yield "text for a file", {"file": signed(base, Signer.V4, secrets)}
    yield "headers for nothing", {"upload_headers": json.dumps({"x-pass": secrets.make("header")})}


def _wrong_headers(secrets: Secrets) -> Iterator[tuple[str, str]]:
    secret = secrets.make
    yield "no JSON", f"x-pass: {secret('header')}"
    yield "JSON that breaks off", f'{{"x-pass": "{secret("header")}'
    yield "a list", json.dumps([f"x-pass: {secret('header')}"])
    yield "a number", json.dumps({"x-pass": 1, "x-other": secret("header")})
    yield "a value in the name", json.dumps({f"x-pass: {secret('header')}": ""})
    yield "a line break", json.dumps({"x-pass": f"one\r\nx-other: {secret('header')}"})
    yield "space around it", json.dumps({"x-pass": f" {secret('header')} "})
    yield "other letters", json.dumps({"x-pass": f"{secret('header')}ü"})
    yield "a cookie", json.dumps({"Cookie": f"session={secret('header')}"})
    yield "credentials for a proxy", json.dumps({"Proxy-Authorization": f"Bearer {secret('header')}"})
    yield "a hash", json.dumps({"content-md5": secret("header")})
    yield "twice", json.dumps({"x-pass": secret("header"), "X-PASS": secret("header")})
    yield "too much", json.dumps({"x-pass": secret("header") * 1000})


def wrong_bodies(secrets: Secrets, base: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield bodies that are not valid forms, each with a description and a content type."""
    url = signed(base, Signer.V4, secrets)
    part = f'--b\r\nContent-Disposition: form-data; name="upload_presigned_url"\r\n\r\n{url}\r\n'
    secret = secrets.make("form")
    yield "JSON", "application/json", json.dumps({"url": url}).encode()
    yield "no type", "", url.encode()
    yield "another type", f"text/plain; note={secret}", url.encode()
    yield "no boundary", f"multipart/form-data; border={secret}", part.encode()
    yield "another boundary", f"multipart/form-data; boundary={secret}", part.encode()
    yield "an odd boundary", f'multipart/form-data; boundary="{secret}\u00fc"'.encode().decode("latin-1"), part.encode()
    yield "no end", "multipart/form-data; boundary=b", part.encode()
    yield "a broken head", "multipart/form-data; boundary=b", f"--b\r\n{secret}\u00fc {url}\r\n\r\nx\r\n--b--".encode()
    yield "a broken end", "multipart/form-data; boundary=b", f"{part}--b{secret}\r\n".encode()
    yield "half a character", "multipart/form-data; boundary=b", part.encode() + b"\xff\r\n--b--"
    named = f'--b\r\nContent-Disposition: form-data; name="{url}"\r\n\r\n'.encode()
    yield "half a character in what a URL names", "multipart/form-data; boundary=b", named + b"\xff\r\n--b--\r\n"
    yield "a long name", "multipart/form-data; boundary=b", named.replace(b"name=", b"name=" + b"x" * 300)
    yield "broken percents", "application/x-www-form-urlencoded", f"url={url}&%ff%zz={secret}".encode()
    yield "too many fields", "application/x-www-form-urlencoded", "&".join([f"{secret}=1"] * 300).encode()


def wrong_redeliveries(secrets: Secrets, base: str) -> Iterator[tuple[str, bytes]]:
    """Yield invalid bodies of a redelivery, each with a description."""
    for case, url in {
        **malformed(secrets),
        **unusable(base, secrets),
        **unfit_for_uploads(base, secrets),
    }.items():
        yield case, json.dumps({"upload_presigned_url": url}).encode()
    yield "JSON that breaks off", f'{{"upload_presigned_url": "{signed(base, Signer.V4, secrets)}'.encode()
    yield "a list", json.dumps([signed(base, Signer.V2, secrets)]).encode()
    yield "a list in a list", json.dumps({"upload_presigned_url": [[signed(base, Signer.V2, secrets)]]}).encode()
    two = [signed(base, signer, secrets) for signer in (Signer.V2, Signer.V4)]
    yield "more URLs than uploads", json.dumps({"upload_presigned_url": two}).encode()
    yield "a form", f"upload_presigned_url={signed(base, Signer.V2, secrets)}".encode()
    yield "headers only", json.dumps({"upload_headers": {"x-pass": secrets.make("header")}}).encode()
    yield "no headers", json.dumps({"upload_presigned_url": base, "upload_headers": secrets.make("header")}).encode()
    for case, headers in _wrong_headers(secrets):
        if case == "too much":  # only forms limit the length of headers
            continue
        body = f'{{"upload_presigned_url": "{signed(base, Signer.OWN, secrets)}", "upload_headers": {headers}}}'
        yield case, body.encode()
    yield "too much", json.dumps({"upload_presigned_url": signed(base, Signer.V4, secrets) * 300}).encode()


def odd_paths(secrets: Secrets, base: str, job_id: str) -> Iterator[tuple[str, str, int]]:
    """Yield methods and paths with the status of their response."""
    secret = secrets.make
    whole = quote(signed(base, Signer.V2, secrets), safe="")
    yield "GET", f"/v1/jobs?api_key={secret('querykey')}", 200
    yield "GET", f"/v1/jobs/?api_key={secret('querykey')}", 200
    yield "GET", f"/v1/nothing?{signed('', Signer.V4, secrets)[1:]}", 404
    yield "GET", f"/{base}?X-Amz-Signature={secret('path')}", 404
    yield "GET", f"/{whole}", 404
    yield "GET", f"/v1/jobs/{whole}", 404
    yield "DELETE", f"/v1/jobs/{whole}", 404
    yield "GET", f"/v1/jobs/{whole}/events?api_key={secret('querykey')}", 404
    yield "GET", f"/v1/models/{whole}", 404
    for name in ("status", "limit", "after"):
        yield "GET", f"/v1/jobs?{name}={whole}", 404 if name == "after" else 400
    yield "GET", f"/v1/jobs/{job_id}?include_result={whole}", 400
    yield "GET", f"/v1/jobs/{job_id}/result?response_format={whole}", 400
    yield "GET", f"/v1/jobs/{job_id}/result?max_line_width={whole}", 400
    yield "PATCH", f"/v1/jobs?api_key={secret('querykey')}", 405
    yield "PUT", f"{TRANSCRIPTIONS}?token={secret('querykey')}", 405
    yield "GET", f"/health?api_key={secret('querykey')}", 200
    yield "GET", f"/health/ready?api_key={secret('querykey')}", 200
    yield "GET", f"/metrics?key={secret('querykey')}", 401
    yield "GET", f"/docs?api_key={secret('querykey')}", 200
    yield "GET", f"/openapi.json?api_key={secret('querykey')}", 200


def unauthorized_headers(secrets: Secrets, right: str) -> Iterator[Mapping[str, str]]:
    """Yield the headers of clients without a valid key. ``right`` is a valid key in the wrong place."""
    password = f"user:{secrets.make('basic')}"
    encoded = base64.b64encode(password.encode()).decode()
    secrets.add(encoded)
    yield {"Authorization": f"Bearer {secrets.make('wrongkey')}"}
    yield {"Authorization": f"Basic {encoded}"}
    yield {"Authorization": secrets.make("nakedkey")}
    yield {"Authorization": right}
    yield {"Authorization": f"Bearer {right} {secrets.make('more')}"}
    yield {"Authorization": f"Bearer{right}"}
    yield {"Authorization": f'Digest username="{secrets.make("user")}", response="{secrets.make("digest")}"'}
    yield {"X-Api-Key": right, "Api-Key": secrets.make("wrongkey"), "Proxy-Authorization": f"Bearer {right}"}
    yield {"Cookie": f"session={secrets.make('cookie')}; key={right}"}
    yield {"Referer": f"https://page.example/?api_key={secrets.make('referer')}", "User-Agent": secrets.make("agent")}


def broken_heads(secrets: Secrets, right: str) -> Iterator[bytes]:
    """Yield bytes that are not a valid request."""
    secret = secrets.make
    key = f"Host: a\r\nAuthorization: Bearer {right}\r\nCookie: {secret('cookie')}\r\n"
    yield f"GET /v1/jobs?api_key={secret('rawkey')} HTTP/1.1\r\n{key}bad header {secret('raw')}\r\n\r\n".encode()
    yield f"{secret('raw')}\r\n\r\n".encode()
    yield f"GET /v1/jobs?api_key={secret('rawkey')} {secret('raw')} HTTP/1.1\r\n{key}\r\n".encode()
    yield f"GET /v1/jobs?api_key={secret('rawkey')}\u00fc HTTP/1.1\r\n{key}\r\n".encode()
    yield f"GET /v1/jobs HTTP/9.{secret('raw')}\r\n{key}\r\n".encode()
    yield f"GET /v1/jobs HTTP/1.1\r\n{key}{secret('raw')}\u00fc: x\r\n\r\n".encode()
    yield f"GET /v1/jobs HTTP/1.1\r\n{key}x: {secret('raw')}\0\r\n\r\n".encode()
    yield f"GET /v1/jobs HTTP/1.1\r\n{key}x: {secret('raw') * 4000}\r\n\r\n".encode()
    yield f"GET /v1/jobs?{secret('raw') * 4000} HTTP/1.1\r\n{key}\r\n".encode()
    yield f"POST {TRANSCRIPTIONS} HTTP/1.1\r\n{key}Content-Length: {secret('raw')}\r\n\r\n".encode()
    yield f"POST {TRANSCRIPTIONS} HTTP/1.1\r\n{key}Transfer-Encoding: {secret('raw')}\r\n\r\n".encode()
    yield (
        f"POST {TRANSCRIPTIONS} HTTP/1.1\r\n{key}Content-Type: multipart/form-data; boundary=b\r\n"
        f"Transfer-Encoding: chunked\r\n\r\n{secret('raw')}\r\n"
    ).encode()
    yield f"POST {TRANSCRIPTIONS} HTTP/1.1\r\n{key}Content-Length: 999999999999\r\n\r\n{secret('raw')}".encode()
    yield f"POST {TRANSCRIPTIONS} HTTP/1.1\r\n{key}Expect: {secret('raw')}\r\nContent-Length: 1\r\n\r\nx".encode()
    yield (
        f"GET /v1/jobs?api_key={secret('rawkey')} HTTP/1.1\r\n{key}Connection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Protocol: {secret('raw')}\r\nSec-WebSocket-Key: a2V5a2V5a2V5a2V5a2V5a2V5\r\n\r\n"
    ).encode()
    yield b"\x16\x03\x01\x02\x00\x01\x00" + secret("raw").encode()


def send_raw(client: httpx.Client, request: bytes) -> bytes:
    """Send bytes and return what the server sends back within a few seconds."""
    received = b""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), _RESPONSE_SECONDS) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
        except OSError:  # a reset or a timeout
            pass
    return received
