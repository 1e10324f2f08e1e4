"""Presigned URLs of several kinds, with new secrets in every part that holds one."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.marked_secrets import Secrets

_HOUR: Final = 3600


class Signer(StrEnum):
    """A signature scheme."""

    V2 = "v2"
    V2_TYPE = "v2type"
    V4 = "v4"
    V4_HEADERS = "v4headers"
    GOOGLE = "google"
    AZURE = "azure"
    OWN = "own"


def signed(base: str, signer: Signer, secrets: Secrets, *, lasts: int = _HOUR) -> str:
    """Return ``base`` with a signed query that expires in ``lasts`` seconds, or did so before if that is negative."""
    now = datetime.now(UTC)
    start = (now if lasts > 0 else now + timedelta(seconds=2 * lasts)).strftime("%Y%m%dT%H%M%SZ")

    def secret(purpose: str) -> str:
        return secrets.make(f"{signer}{purpose}")

    def v4(vendor: str, headers: str) -> str:
        return (
            f"X-{vendor}-Algorithm={vendor.upper()}4-RSA-SHA256&X-{vendor}-SignedHeaders={headers}"
            f"&X-{vendor}-Credential={secret('credential')}%2F20260101%2Fauto%2Fstorage%2Frequest"
            f"&X-{vendor}-Date={start}&X-{vendor}-Expires={abs(lasts)}&X-{vendor}-Security-Token={secret('token')}%2B%3D"
            f"&X-{vendor}-Signature={secret('signature')}"
        )

    def v2() -> str:
        return (
            f"AWSAccessKeyId={secret('key')}&Signature={secret('signature')}%2F%2B%3D"
            f"&Expires={int(time.time()) + lasts}&x-amz-security-token={secret('token')}"
        )

    until = quote((now + timedelta(seconds=lasts)).strftime("%Y-%m-%dT%H:%M:%SZ"))
    queries: dict[Signer, Callable[[], str]] = {
        Signer.V2: v2,
        Signer.V2_TYPE: lambda: f"{v2()}&content-type=application%2Fjson",
        Signer.V4: lambda: v4("Amz", "host"),
        Signer.V4_HEADERS: lambda: v4("Amz", "content-type%3Bhost%3Bx-amz-meta-pass"),
        Signer.GOOGLE: lambda: v4("Goog", "host"),
        Signer.AZURE: lambda: f"sv=2024-01-01&sr=b&se={until}&sp=w&sig={secret('signature')}%3D",
        Signer.OWN: lambda: f"token={secret('token')}&Expires={int(time.time()) + lasts}#{secret('fragment')}",
    }
    return f"{base}?{queries[signer]()}"


def malformed(secrets: Secrets) -> dict[str, str]:
    """Return URLs that no field accepts, by a description."""

    def query() -> str:
        return f"X-Amz-Signature={secrets.make('malformed')}&token={secrets.make('malformedtoken')}"

    return {
        "no URL": f"not a URL {query()}",
        "no scheme": f"127.0.0.1/key?{query()}",
        "no scheme but slashes": f"//127.0.0.1/key?{query()}",
        "another scheme": f"ftp://127.0.0.1/key?{query()}",
        "another scheme with a password": f"s3://user:{secrets.make('password')}@127.0.0.1/key?{query()}",
        "a wrong scheme": f"httpss://127.0.0.1/key?{query()}",
        "no host": f"https:///key?{query()}",
        "no path but a password": f"http://user:{secrets.make('password')}@127.0.0.1",
        "a user": f"http://{secrets.make('user')}@127.0.0.1/key",
        "a password and a query": f"http://user:{secrets.make('password')}@127.0.0.1/key?{query()}",
        "a password that ends the host": f"http://user:{secrets.make('password')}/127.0.0.1/key?{query()}",
        "a port too high": f"http://127.0.0.1:99999/key?{query()}",
        "no port that is a number": f"http://127.0.0.1:{secrets.make('port')}/key?{query()}",
        "a space": f"http://127.0.0.1/a key?{query()}",
        "a space in the query": f"http://127.0.0.1/key?a b&{query()}",
        "a line break": f"http://127.0.0.1/key?a\n{query()}",
        "a backslash": f"http://127.0.0.1\\key?{query()}",
        "quotes": f"http://127.0.0.1 '\"<{query()}>",
        "a private host": f"https://10.0.0.1/key?{query()}",
        "this machine": f"https://[::1]/key?{query()}",
        "the metadata of a cloud": f"http://169.254.169.254/latest?{query()}",
        "an odd address": f"https://0x7f000001/key?{query()}",
        "plain http": f"http://storage.example/key?{query()}",
        "no name": f"https://a..b/key?{query()}",
        "no international name": f"https://xn--\u00fc\u00fc.example/key?{query()}",
        "an open bracket": f"https://[::1/key?{query()}",
        "too long": f"https://storage.example/key?{query()}&{'x' * 9000}",
        "encoded as a whole": quote(f"http://127.0.0.1/key?{query()}", safe=""),
        "encoded twice": quote(quote(f"http://127.0.0.1/key?{query()}", safe=""), safe=""),
        "in a tag": f"<a href='http://127.0.0.1/key?{query()}'>",
        "in JSON": f'{{"url": "http://127.0.0.1/key?{query()}"}}',
        "half a surrogate": f"https://storage.example/\\ud800?{query()}",
    }


def unusable(base: str, secrets: Secrets) -> dict[str, str]:
    """Return URLs of an allowed host that cannot be uploaded to, by a description."""
    expired = {f"expired {signer}": signed(base, signer, secrets, lasts=-60) for signer in Signer}
    secret = secrets.make
    return {
        **expired,
        "no date": f"{base}?X-Amz-Date={secret()}&X-Amz-Expires={secret()}&X-Amz-Signature={secret()}",
        "no lifetime": f"{base}?X-Amz-Date=20300101T000000Z&X-Amz-Expires={secret()}&X-Amz-Signature={secret()}",
        "no date for Google": f"{base}?X-Goog-Date={secret()}&X-Goog-Signature={secret()}",
        "no end": f"{base}?AWSAccessKeyId={secret()}&Signature={secret()}&Expires={secret()}",
        "no end for Azure": f"{base}?sv=1&sr=b&se={secret()}&sig={secret()}",
    }


def unfit_for_uploads(base: str, secrets: Secrets) -> dict[str, str]:
    """Return URLs that can be downloaded from but not uploaded to, by a description."""
    secret = secrets.make
    return {
        "a checksum": f"{base}?x-amz-checksum-crc32={secret()}&X-Amz-Signature={secret()}",
        "a hash": f"{base}?X-Amz-Content-Sha256={secret()}&X-Amz-SignedHeaders=host&X-Amz-Signature={secret()}",
        "a digest": f"{base}?AWSAccessKeyId={secret()}&Signature={secret()}&content-md5={secret()}",
        "a length": f"{base}?X-Amz-SignedHeaders=host%3Bcontent-length&X-Amz-Signature={secret()}",
        "headers": f"{base}?X-Amz-SignedHeaders=host%3Bx-amz-meta-pass&X-Amz-Signature={secret()}",
    }
