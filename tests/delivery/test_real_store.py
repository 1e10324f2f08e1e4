"""Uploads to a real S3 that verifies signatures."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from app.delivery.failures import AttemptError
from app.delivery.presigned_urls import PresignedUrl
from app.delivery.url_rules import UrlRules
from app.domain.access import AllowedHosts
from app.domain.errors import DeliveryFailed, RefusedUrl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_s3 import LocalS3

    from tests.delivery.conftest import OpenUploader

pytestmark = pytest.mark.anyio

BODY = '{"text":"grüße"}'.encode()
RULES = UrlRules(AllowedHosts.parse("127.0.0.1"))


@pytest.fixture
def stored(store: LocalS3) -> StoredObjects:
    return StoredObjects(store)


class StoredObjects:
    """The objects in the store, read over its API."""

    def __init__(self, store: LocalS3) -> None:
        self._client = store.client()

    async def body(self, key: str) -> bytes:
        answer = await asyncio.to_thread(self._client.get_object, Bucket="results", Key=key)
        body: bytes = await asyncio.to_thread(answer["Body"].read)
        return body

    async def keys(self) -> set[str]:
        answer = await asyncio.to_thread(self._client.list_objects_v2, Bucket="results")
        return {entry["Key"] for entry in answer.get("Contents", [])}


async def deliver(
    open_uploader: OpenUploader,
    url: str,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/json",
) -> None:
    """Check the URL and upload to it, as the service does."""
    checked = RULES.check(url, param="upload_presigned_url")
    PresignedUrl.parse(checked).check_upload(headers or {}, now=time.time())
    async with open_uploader() as uploader:
        await uploader.put(checked, BODY, headers=headers or {}, media_type=media_type)


async def cause_of_failure(open_uploader: OpenUploader, url: str, headers: Mapping[str, str] | None = None) -> str:
    async with open_uploader() as uploader:
        with pytest.raises(DeliveryFailed) as caught:
            await uploader.put(url, BODY, headers=headers or {}, media_type="application/json")
    assert (caught.value.attempts, caught.value.retryable) == (1, False)
    assert isinstance(caught.value.__cause__, AttemptError)
    return str(caught.value.__cause__)


async def test_result_is_stored(store: LocalS3, stored: StoredObjects, uploader_for_loopback: OpenUploader) -> None:
    for key in ("plain.json", "folder/with space & ü+%.json"):
        await deliver(uploader_for_loopback, store.presign_put("results", key))
        assert await stored.body(key) == BODY


async def test_url_with_json_escapes_is_accepted(
    store: LocalS3, stored: StoredObjects, uploader_for_loopback: OpenUploader
) -> None:
    url = store.presign_put("results", "escaped.json").replace("&", "\\u0026")
    await deliver(uploader_for_loopback, f" {url}\n")
    assert await stored.body("escaped.json") == BODY


async def test_signed_content_type_is_sent(store: LocalS3, uploader_for_loopback: OpenUploader) -> None:
    url = store.presign_put("results", "typed.json", ContentType="application/json")
    await deliver(uploader_for_loopback, url)
    assert "SignatureDoesNotMatch" in await cause_of_failure(uploader_for_loopback, url, {"Content-Type": "text/plain"})


async def test_signed_type_takes_precedence_over_the_type_of_the_body(
    store: LocalS3, uploader_for_loopback: OpenUploader
) -> None:
    url = store.presign_put("results", "typed.bin", ContentType="application/x-mine")
    await deliver(uploader_for_loopback, url, {"content-type": "application/x-mine"})


async def test_signed_headers_are_sent_unchanged(store: LocalS3, uploader_for_loopback: OpenUploader) -> None:
    url = store.presign_put("results", "described.json", Metadata={"job": "one"})
    with pytest.raises(RefusedUrl, match="x-amz-meta-job"):
        await deliver(uploader_for_loopback, url)
    await deliver(uploader_for_loopback, url, {"X-Amz-Meta-Job": "one"})
    assert (await cause_of_failure(uploader_for_loopback, url, {"x-amz-meta-job": "two"})).startswith("HTTP 403")
    assert (await cause_of_failure(uploader_for_loopback, url)).startswith("HTTP 403")


async def test_tampered_url_is_refused_by_the_store(
    store: LocalS3, stored: StoredObjects, uploader_for_loopback: OpenUploader
) -> None:
    for url in (
        store.presign_put("results", "a.json").replace("a.json", "tampered.json"),
        store.presign_put("results", "tampered.json").replace("X-Amz-Expires=3600", "X-Amz-Expires=3601"),
    ):
        assert await cause_of_failure(uploader_for_loopback, url) == "HTTP 403 SignatureDoesNotMatch"
    assert "tampered.json" not in await stored.keys()


async def test_url_signed_for_reading_is_refused_by_the_store(
    store: LocalS3, uploader_for_loopback: OpenUploader
) -> None:
    url = store.presign_get("results", "reading.json")
    PresignedUrl.parse(url).check_upload({}, now=time.time())  # the URL does not contain the method it was signed for
    assert await cause_of_failure(uploader_for_loopback, url) == "HTTP 403 SignatureDoesNotMatch"


@pytest.mark.full(reason="takes more than a second")
async def test_expired_url_is_refused_at_submission_and_by_the_store(
    store: LocalS3, uploader_for_loopback: OpenUploader
) -> None:
    url = store.presign_put("results", "late.json", expires_in=1)
    with pytest.raises(RefusedUrl, match="expired at"):
        PresignedUrl.parse(url).check_upload({}, now=time.time() + 2)
    await asyncio.sleep(2.1)  # the store uses the real clock
    assert "AccessDenied" in await cause_of_failure(uploader_for_loopback, url)


async def test_missing_bucket_is_reported(store: LocalS3, uploader_for_loopback: OpenUploader) -> None:
    assert await cause_of_failure(uploader_for_loopback, store.presign_put("nowhere", "k")) == "HTTP 404 NoSuchBucket"
