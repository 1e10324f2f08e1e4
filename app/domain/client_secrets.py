"""Client secrets: keys for browsers, valid for realtime sessions and for a short while."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

#: The prefix of OpenAI's ephemeral keys.
PREFIX: Final = "ek_"
#: The beginning of the subprotocol in which pages send keys, as OpenAI's API takes them.
KEY_SUBPROTOCOL: Final = "openai-insecure-api-key."
#: The most secrets to remember. Beyond it the oldest is forgotten.
MAX_SECRETS: Final = 10_000


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """The rights of a client secret: those of the API key ``owner``, for realtime sessions up to ``expires_at``.

    ``session`` is the configuration with which its sessions begin. Times are Unix seconds.
    """

    owner: str
    key_name: str
    session: dict[str, Any]
    expires_at: int


class ClientSecrets:
    """Issues client secrets and finds them again. They live in memory, as digests, and end with the process."""

    def __init__(self) -> None:
        self._secrets: OrderedDict[bytes, ClientSecret] = OrderedDict()

    def issue(self, secret: ClientSecret, *, now: float) -> str:
        """Return the value of a new secret."""
        while self._secrets:
            oldest = next(iter(self._secrets))
            if self._secrets[oldest].expires_at > now and len(self._secrets) < MAX_SECRETS:
                break
            del self._secrets[oldest]
        value = PREFIX + secrets.token_hex(32)
        self._secrets[_digest(value)] = secret
        return value

    def find(self, value: str, *, now: float) -> ClientSecret | None:
        """Return the secret with this value, or None if there is none, or no longer."""
        secret = self._secrets.get(_digest(value))
        return secret if secret is not None and secret.expires_at > now else None


def _digest(value: str) -> bytes:
    """Return what the secret is found by, so that the time of a search says nothing about it."""
    return hashlib.sha256(value.encode("utf-8", "replace")).digest()
