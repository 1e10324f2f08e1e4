"""Presigned URLs of every vendor in the contract's table."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

import boto3
import pytest
from botocore.config import Config
from hypothesis import given
from hypothesis import strategies as st

from app.delivery.presigned_urls import PresignedUrl
from app.domain.errors import RefusedUrl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NOW = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
JSON = "application/json"
V4 = "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20260101T000000Z&X-Amz-Expires=60"
V2 = "https://b.s3.amazonaws.com/k?AWSAccessKeyId=AK&Signature=abc%3D&Expires=1767225660"
GOOG = "https://storage.googleapis.com/b/k?X-Goog-Date=20260101T000000Z&X-Goog-Expires=60&X-Goog-Signature=ab"
GOOG_V2 = "https://storage.googleapis.com/b/k?GoogleAccessId=a%40b&Signature=abc&Expires=1767225660"
AZURE = "https://files.example/c/k?sv=2024-11-04&sr=b&sp=cw&se=2026-01-01T00%3A01%3A00Z&sig=abc%3D"


def v4(*signed: str, more: str = "") -> str:
    return f"{V4}&X-Amz-SignedHeaders={quote(';'.join(sorted((*signed, 'host'))))}&X-Amz-Signature=ab{more}"


def check(url: str, headers: Mapping[str, str] | None = None, now: float = NOW) -> None:
    PresignedUrl.parse(url).check_upload(headers or {}, now=now)


def expires_at(url: str) -> float | None:
    return PresignedUrl.parse(url).expiry()


def refusal(url: str, headers: Mapping[str, str] | None = None, now: float = NOW) -> RefusedUrl:
    with pytest.raises(RefusedUrl) as caught:
        check(url, headers, now)
    return caught.value


def sent(url: str, headers: Mapping[str, str] | None = None, media_type: str = JSON) -> dict[str, str]:
    check(url, headers)
    return PresignedUrl.parse(url).put_headers(headers or {}, media_type=media_type)


def boto_url(*, version: str | None, **params: str) -> str:
    client = boto3.client(
        "s3",
        region_name="us-east-1",
        aws_access_key_id="AK",
        aws_secret_access_key="SK",
        config=Config(signature_version=version),
    )
    url: str = client.generate_presigned_url("put_object", Params={"Bucket": "b", "Key": "k", **params})
    return url


def test_boto3_default_url_gets_no_content_type() -> None:
    url = boto_url(version=None)
    assert "AWSAccessKeyId=" in url
    assert sent(url) == {}


def test_boto3_default_url_with_a_type_gets_exactly_that_type() -> None:
    url = boto_url(version=None, ContentType="text/x; charset=a+b")
    assert sent(url) == {"Content-Type": "text/x; charset=a+b"}
    assert sent(url, {"content-type": "text/x; charset=a+b"}) == {"content-type": "text/x; charset=a+b"}


def test_type_that_differs_from_the_signed_one_is_refused() -> None:
    error = refusal(boto_url(version=None, ContentType="text/plain"), {"Content-Type": JSON})
    assert error.param == "upload_headers"


def test_version_2_url_without_a_type_accepts_the_clients_type() -> None:
    assert sent(V2, {"Content-Type": "text/plain"}) == {"Content-Type": "text/plain"}


@pytest.mark.parametrize("url", [v4(), v4("content-type"), boto_url(version="s3v4", ContentType=JSON), GOOG])
def test_version_4_url_gets_the_type_of_the_body_or_client(url: str) -> None:
    assert sent(url) == {"Content-Type": JSON}
    assert sent(url, media_type="text/vtt; charset=utf-8") == {"Content-Type": "text/vtt; charset=utf-8"}
    assert sent(url, {"content-TYPE": "text/x"}) == {"content-TYPE": "text/x"}


def test_unsigned_url_gets_the_type_of_the_body() -> None:
    assert sent("https://example.com/put") == {"Content-Type": JSON}


def test_signed_headers_must_be_sent() -> None:
    url = v4("x-amz-meta-job", "x-amz-acl", "content-type")
    error = refusal(url, {"x-amz-acl": "private"})
    assert error.param == "upload_headers"
    assert "x-amz-meta-job" in str(error)
    assert "x-amz-acl" not in str(error)
    headers = {"X-Amz-Meta-Job": "1", "x-amz-acl": "private"}
    assert sent(url, headers) == {"Content-Type": JSON, **headers}


def test_unsigned_vendor_header_is_refused() -> None:
    assert "x-amz-meta-job" in str(refusal(v4(), {"x-amz-meta-job": "1"}))
    assert "x-goog-meta-job" in str(refusal(GOOG, {"x-goog-meta-job": "1"}))
    assert sent(v4(), {"Cache-Control": "no-store"})["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "name",
    ["content-length", "content-md5", "x-amz-checksum-crc32", "x-amz-checksum-sha256", "x-amz-sdk-checksum-algorithm"],
)
def test_signed_header_that_depends_on_the_body_is_refused(name: str) -> None:
    for headers in ({}, {name: "1"}):
        assert name.lower() in str(refusal(v4(name), headers)).lower()
    refusal(v4(), {name: "1"})


def test_signed_content_hash_must_be_unsigned_payload() -> None:
    url = v4("x-amz-content-sha256")
    assert "x-amz-content-sha256" in str(refusal(url))
    assert "UNSIGNED-PAYLOAD" in str(refusal(url, {"x-amz-content-sha256": "e3b0c442"}))
    assert sent(url, {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"})["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert "UNSIGNED-PAYLOAD" in str(refusal(v4(more="&X-Amz-Content-Sha256=e3b0c442")))
    check(v4(more="&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD"))


def test_md5_in_a_version_2_url_is_refused() -> None:
    assert "content-md5" in str(refusal(f"{V2}&content-md5=abc"))


@pytest.mark.parametrize("name", ["x-amz-checksum-crc32", "X-Amz-Checksum-Crc32", "x-amz-checksum-crc64nvme"])
def test_checksum_of_an_empty_body_is_refused_with_a_remedy(name: str) -> None:
    error = refusal(v4(more=f"&x-amz-sdk-checksum-algorithm=CRC32&{name}=AAAAAA%3D%3D"))
    assert 'requestChecksumCalculation: "WHEN_REQUIRED"' in str(error)
    assert error.param == "upload_presigned_url"


def test_azure_url_gets_its_blob_type_on_any_host() -> None:
    assert sent(AZURE) == {"Content-Type": JSON, "x-ms-blob-type": "BlockBlob"}
    assert sent(AZURE, {"X-MS-Blob-Type": "BlockBlob"}) == {"Content-Type": JSON, "X-MS-Blob-Type": "BlockBlob"}
    account = AZURE.replace("sr=b", "ss=b&srt=o")
    assert sent(account)["x-ms-blob-type"] == "BlockBlob"


def test_google_version_2_url_gets_no_content_type() -> None:
    assert sent(GOOG_V2) == {}


def test_google_version_4_url_requires_its_signed_headers() -> None:
    url = f"{GOOG}&X-Goog-SignedHeaders=host%3Bx-goog-resumable"
    assert "x-goog-resumable" in str(refusal(url))
    assert sent(url, {"x-goog-resumable": "start"})["x-goog-resumable"] == "start"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (AZURE.replace("sp=cw", "sp=r"), "sp=r"),
        (AZURE.replace("sp=cw", "sp="), "sp=cw"),
        (f"{AZURE}&st=2026-01-01T00:10:00Z", "only from 2026-01-01 00:10:00 UTC"),
        (f"{AZURE}&st=9999-12-31T23:59:59-14:00", "only from 9999-12-31 23:59:59 UTC"),
        (AZURE.replace("/c/k", "/c").replace("sr=b", "sr=c"), "no blob"),
        (AZURE.replace("/c/k", "/c/").replace("sr=b", "ss=b&srt=co"), "no blob"),
        (f"{AZURE}&st=tomorrow", "no readable st"),
    ],
)
def test_sas_that_allows_no_upload_is_refused_with_the_remedy(url: str, words: str) -> None:
    problem = refusal(url)
    assert words in str(problem)
    assert "abc" not in str(problem)


@pytest.mark.parametrize(
    "url",
    [
        AZURE.replace("sp=cw", "sp=racwd"),
        AZURE.replace("&sp=cw", "&si=policy"),
        f"{AZURE}&st=2025-12-31T23:59:00Z",
        f"{AZURE}&st=2026-01-01T00:01:00Z",
        AZURE.replace("sr=b", "sr=c"),
        AZURE.replace("/c/k", "/blob-in-the-root-container"),
    ],
)
def test_sas_that_allows_an_upload_is_accepted(url: str) -> None:
    check(url)


@pytest.mark.parametrize(
    ("url", "warns"),
    [
        ("https://bucket.s3.amazonaws.com/", True),
        ("https://s3.eu-central-1.amazonaws.com/bucket", True),
        ("https://storage.googleapis.com/bucket/key", True),
        ("https://console.cloud.google.com/storage/browser/bucket", True),
        ("https://account.blob.core.windows.net/container/blob?sp=r", True),
        (v4(), False),
        (V2, False),
        (GOOG, False),
        (AZURE.replace("files.example", "account.blob.core.windows.net"), False),
        ("https://files.example/", False),
        ("https://amazonaws.com.example/key", False),
        ("https://notamazonaws.com/key", False),
    ],
)
def test_url_of_a_store_without_a_signature_gets_a_warning(url: str, *, warns: bool) -> None:
    assert (PresignedUrl.parse(url).upload_warning() is not None) is warns


@pytest.mark.parametrize("url", [v4(), V2, GOOG, GOOG_V2, AZURE])
def test_url_is_accepted_until_it_expires(url: str) -> None:
    assert expires_at(url) == NOW + 60
    check(url, now=NOW + 59)
    download = PresignedUrl.parse(url, param="s3_presigned_url")
    download.check_not_expired(now=NOW + 59)
    error = refusal(url, now=NOW + 60)
    assert "expired at 2026-01-01 00:01:00 UTC" in str(error)
    assert error.param == "upload_presigned_url"
    with pytest.raises(RefusedUrl) as caught:
        download.check_not_expired(now=NOW + 60)
    assert caught.value.param == "s3_presigned_url"


@pytest.mark.parametrize(
    ("form", "seconds"),
    [
        ("2026-01-01", 0),
        ("2026-01-01T00:01Z", 60),
        ("2026-01-01T01:00:00+01:00", 0),
        ("2026-01-01T00:00:00.0000000Z", 0),
    ],
)
def test_azure_expiry_is_parsed_in_every_form(form: str, seconds: int) -> None:
    assert expires_at(f"https://a/b?sv=1&sr=b&sig=1&se={form}") == NOW + seconds
    assert expires_at(f"https://a/b?sv=1&sr=b&sig=1&se={quote(form)}") == NOW + seconds


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (v4().replace("20260101T000000Z", "yesterday"), "X-Amz-Date"),
        (v4().replace("20260101T000000Z", "20261301T000000Z"), "X-Amz-Date"),
        (v4().replace("20260101T000000Z", ""), "X-Amz-Date"),
        (v4().replace("X-Amz-Date=20260101T000000Z&", ""), "X-Amz-Date"),
        (v4().replace("Expires=60", "Expires=-60"), "X-Amz-Expires"),
        (v4().replace("Expires=60", "Expires=" + "9" * 400), "X-Amz-Expires"),
        (v4().replace("&X-Amz-Expires=60", ""), "X-Amz-Expires"),
        (GOOG.replace("Expires=60", "Expires=1e3"), "X-Goog-Expires"),
        (V2.replace("1767225660", "tomorrow"), "Expires"),
        (V2.replace("1767225660", "1767225660000"), "Expires"),
        (AZURE.replace("2026-01-01", "2026-13-01"), "se"),
        (AZURE.replace("2026-01-01T00%3A01%3A00Z", "0001-01-01T00%3A00%3A00%2B14%3A00"), "se"),
        (AZURE.replace("2026-01-01T00%3A01%3A00Z", ""), "se"),
    ],
)
def test_unreadable_expiry_is_refused_by_name(url: str, name: str) -> None:
    error = refusal(url)
    assert f"no readable {name}, which" in str(error) or "expired" in str(error)
    with pytest.raises(RefusedUrl):
        PresignedUrl.parse(url, param="s3_presigned_url").check_not_expired(now=NOW)


@pytest.mark.parametrize("query", ["", "?a=b", "?expires=3600", "?Expires=never", "?se=1", "?token=1;Expires=1"])
def test_url_of_an_unknown_scheme_has_no_expiry(query: str) -> None:
    assert expires_at(f"https://example.com/k{query}") is None


def test_expiry_of_an_unknown_scheme_counts_if_it_is_a_unix_time() -> None:
    assert expires_at("https://example.com/k?Expires=1767225660") == NOW + 60


@pytest.mark.parametrize(
    "name", ["Host", "content-length", "Transfer-Encoding", "CONNECTION", "Keep-Alive", "TE", "Upgrade", "Cookie"]
)
def test_connection_headers_are_refused(name: str) -> None:
    error = refusal("https://example.com/k", {name: "1"})
    assert error.param == "upload_headers"
    assert name in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "1"),
        ("a b", "1"),
        ("a:", "1"),
        ("a\r\nb", "1"),
        ("é", "1"),
        ("a", "1\r\nHost: evil"),
        ("a", "1\n"),
        ("a", "\x00"),
        ("a", "é"),
        ("a", " padded "),
    ],
)
def test_malformed_header_is_refused(name: str, value: str) -> None:
    assert refusal("https://example.com/k", {name: value}).param == "upload_headers"


def test_duplicate_header_is_refused() -> None:
    assert "twice" in str(refusal("https://example.com/k", {"X-A": "1", "x-a": "2"}))


def test_repr_hides_the_url_and_its_query() -> None:
    shown = repr(PresignedUrl.parse(v4(more="&X-Amz-Security-Token=verysecret")))
    assert "verysecret" not in shown
    assert "X-Amz-Signature" not in shown


PARAMETERS = (
    *("X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature", "x-amz-checksum-crc32"),
    *("X-Goog-Date", "X-Goog-Expires", "GoogleAccessId", "AWSAccessKeyId", "Expires", "Signature"),
    *("content-type", "sig", "sv", "sr", "se"),
)
QUERIES = st.lists(
    st.tuples(
        st.sampled_from(PARAMETERS),
        st.text() | st.sampled_from(["20260101T000000Z", "60", "host;x-a", "2026-01-01", "0", "9999999999"]),
    ),
    max_size=6,
)


@given(QUERIES, st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3), st.sampled_from([quote, str]))
def test_any_query_is_accepted_or_refused_without_quoting_it(
    query: list[tuple[str, str]], headers: dict[str, str], escape: Callable[[str], str]
) -> None:
    secret = "verysecret"
    url = f"https://e.com/k?token={secret}&" + "&".join(f"{name}={escape(value)}" for name, value in query)
    refused: RefusedUrl | None = None
    try:
        check(url, headers)
    except RefusedUrl as exc:
        refused = exc
    else:
        names = [name.lower() for name in PresignedUrl.parse(url).put_headers(headers, media_type=JSON)]
        assert len(names) == len(set(names))
    if refused is not None:
        assert secret not in str(refused)
        assert refused.param in {"upload_presigned_url", "upload_headers"}
