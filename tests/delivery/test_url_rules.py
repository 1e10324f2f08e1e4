"""Rules for the URLs of clients, and redaction."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.delivery.url_rules import UrlRules, redacted
from app.domain.access import AllowedHosts
from app.domain.errors import RefusedUrl

NONE = UrlRules(AllowedHosts())
SECRET = "verysecret"


def refusal(url: str, rules: UrlRules = NONE) -> str:
    with pytest.raises(RefusedUrl) as caught:
        rules.check(url, param="upload_presigned_url")
    assert caught.value.param == "upload_presigned_url"
    assert SECRET not in str(caught.value)
    return str(caught.value)


def allowing(text: str) -> UrlRules:
    return UrlRules(AllowedHosts.parse(text))


@pytest.mark.parametrize(
    "url",
    [
        "https://bucket.s3.amazonaws.com/key?X-Amz-Signature=1",
        "https://my_bucket.s3.amazonaws.com/a%2Fb/ü?x=ü",
        "https://storage.googleapis.com:443/b/k",
        "https://example.com:8443/",
        "https://[2600:1f18::1]/k",
        "https://52.216.8.1/k",
        "https://bücher.example/k",
        "HTTPS://Example.COM/k",
        "https://bücher。example/k",
        "https://s3.dualstack.eu-west-1.amazonaws.com./k",
        "https://1.example.com/k#frag@127.0.0.1",
        "https://internal.example.com/k",
        "https://localhost.example.com/k",
        "https://10.0.0.1.nip.io/k",
        "https://0x7f.example/k",
        f"https://{'a' * 63}.example.com/k",
        f"https://example.com/k?X-Amz-Security-Token={'a' * 4000}",
    ],
)
def test_https_url_of_a_public_host_is_accepted(url: str) -> None:
    assert NONE.check(url, param="url") == url


def test_json_escapes_and_surrounding_space_are_removed() -> None:
    escaped = "  https:\\/\\/example.com\\/k?a=1\\u0026b=2\\u003D\n"
    assert NONE.check(escaped, param="url") == "https://example.com/k?a=1&b=2="


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("bucket/key", "not a URL"),
        ("//example.com/k", "not a URL"),
        ("https://exa mple.com/k", "a space, a control character or a backslash"),
        ("https://exa\nmple.com/k", "a space, a control character or a backslash"),
        ("https://example.com/my file/k", "percent-encode it"),
        ("https://example.com\\k", "a space, a control character or a backslash"),
        (f"https://example.com/{'a' * 8192}", "longer than 8192 characters"),
        (f"https://example.com/{'ü' * 2000}", "longer than 8192 characters"),
        ("https://@example.com/k", "user or password"),
        ("https://134744072/k", "write an IPv4 address as four decimal numbers"),
        ("https://8.8.8.8./k", "write an IPv4 address as four decimal numbers"),
        (f"https://{'a' * 64}.com/k", "not a valid name"),
        ("https://256.1.1.1/k", "not a URL"),
        ("https://[::1/k", "not a URL"),
        ("https://example.com:port/k", "not a URL"),
        ("https://xn--/\ud800", "not a URL"),
        ("ftp://example.com/k", "scheme ftp"),
        ("file:///etc/passwd", "scheme file"),
        ("s3://bucket/key", "scheme s3"),
        ("https:///k", "no host"),
        ("https:k", "no host"),
        ("https://user:verysecret@example.com/k", "user or password"),
        ("https://user@example.com/k", "user or password"),
        ("https://example.com:0/k", "port"),
        ("https://example.com:65536/k", "port"),
        ("https://example.com:-1/k", "port"),
        ("https://a..b/k", "not a valid name"),
        ("https://%6c%6f/k", "not a valid name"),
        ("https://a%00b/k", "not a valid name"),
    ],
)
def test_unusable_url_is_refused_with_a_reason(url: str, part: str) -> None:
    assert part in refusal(f"{url}?sig={SECRET}" if "/k" in url else url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.5",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "2130706433",
        "0x7f000001",
        "127.1",
    ],
)
def test_private_host_is_refused_naming_the_setting(host: str) -> None:
    sentence = refusal(f"https://{host}/k?sig={SECRET}")
    assert "not a public address" in sentence
    assert "URL_ALLOWED_HOSTS" in sentence


def test_plain_http_is_refused_naming_the_setting() -> None:
    sentence = refusal(f"http://minio.example.com:9000/k?sig={SECRET}")
    assert "uses plain http" in sentence
    assert "URL_ALLOWED_HOSTS" in sentence
    assert "minio.example.com:9000" in sentence


@pytest.mark.parametrize(
    "url",
    [
        "http://minio.local:9000/k",
        "https://minio.local/k",
        "http://MINIO.local./k",
        "http://10.0.0.5:9000/k",
        "http://[::1]:9000/k",
        "http://[0:0::1]:9000/k",
        "http://[fd00::5]/k",
        "http://xn--bcher-kva.example/k",
    ],
)
def test_allowed_host_can_be_private_and_use_http(url: str) -> None:
    rules = allowing("minio.local, 10.0.0.5:9000,[::1]:9000, fd00::5,Bücher.example")
    assert rules.check(url, param="url") == url


@pytest.mark.parametrize(
    "url", ["http://10.0.0.5/k", "http://10.0.0.5:9001/k", "http://[::1]/k", "http://x.minio.local/k"]
)
def test_allowed_entry_covers_only_its_host_and_port(url: str) -> None:
    refusal(url, allowing("minio.local, 10.0.0.5:9000,[::1]:9000"))


def test_allowed_host_requires_an_http_url() -> None:
    assert "scheme" in refusal("ftp://minio.local/k", allowing("minio.local"))


@given(st.text() | st.text(alphabet="ht:/[]@?#%.\\u0026aé1 \n"))
def test_any_text_is_accepted_or_refused_and_can_be_redacted(text: str) -> None:
    for url in (text, f"https://{text}", f"https://example.com/{text}", f"https://example.com/k?{text}"):
        shown = redacted(url)
        assert "\n" not in shown
        assert "?" not in shown
        with suppress(RefusedUrl):
            NONE.check(url, param="url")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://b.s3.amazonaws.com/a/b%20c?X-Amz-Signature=1#frag", "https://b.s3.amazonaws.com/a/b%20c"),
        ("https://user:pass@example.com:8443/k?x", "https://example.com:8443/k"),
        ("http://[fd00::5]:9000/k", "http://[fd00::5]:9000/k"),
        ("https://example.com/k\\u003fsig=1", "https://example.com/k"),
        ("https://xn--zzzzzz--/k?sig", "https://xn--zzzzzz--/k"),
        ("https://@example.com/k#secret", "https://example.com/k"),
        ("https://us:er@pa:ss@example.com/k?x#y?z", "https://example.com/k"),
        ("https://user:pa#ss@example.com/k", "(not a URL)"),
        ("https://example.com#secret@other.example/", "https://example.com/"),
        (f"https://example.com/{'a' * 8192}", "(not a URL)"),
        ("https://example.com/\ud800?sig=1", "(not a URL)"),
        ("not a url?sig=1", "(not a URL)"),
        ("", "(not a URL)"),
    ],
)
def test_redacted_url_has_no_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown
