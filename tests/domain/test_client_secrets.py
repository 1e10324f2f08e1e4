"""Client secrets are valid for a while, and few are remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain import client_secrets
from app.domain.client_secrets import ClientSecret, ClientSecrets

if TYPE_CHECKING:
    import pytest


def secret(*, expires_at: int, owner: str = "owner") -> ClientSecret:
    return ClientSecret(owner=owner, key_name="name", session={"type": "transcription"}, expires_at=expires_at)


def test_secret_is_found_until_it_expires() -> None:
    secrets = ClientSecrets()
    value = secrets.issue(secret(expires_at=100), now=0)
    assert value.startswith("ek_")
    assert secrets.find(value, now=99.9) == secret(expires_at=100)
    assert secrets.find(value, now=100) is None
    assert secrets.find(value + "x", now=0) is None


def test_secrets_differ_and_are_not_kept() -> None:
    secrets = ClientSecrets()
    values = {secrets.issue(secret(expires_at=100), now=0) for _ in range(10)}
    assert len(values) == 10
    assert not any(value in repr(vars(secrets)) for value in values)


def test_oldest_secret_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_secrets, "MAX_SECRETS", 3)
    secrets = ClientSecrets()
    values = [secrets.issue(secret(expires_at=100), now=0) for _ in range(4)]
    assert [secrets.find(value, now=0) is not None for value in values] == [False, True, True, True]


def test_expired_secrets_make_room() -> None:
    secrets = ClientSecrets()
    for _ in range(5):
        secrets.issue(secret(expires_at=10), now=0)
    secrets.issue(secret(expires_at=100), now=50)
    assert len(secrets._secrets) == 1
