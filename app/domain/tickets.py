"""Tickets for recordings: media elements of browsers send no API key, so they get a URL that is valid for a while."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import Final

#: The time for which a ticket is valid, if the job is not forgotten before.
TICKET_SECONDS: Final = 12 * 3600
_TICKET: Final = re.compile("(?P<expires_at>[0-9]{1,15})[.][A-Za-z0-9_-]{43}")


class Tickets:
    """Issues and verifies tickets, each for one job of one owner.

    They are signed, so that nothing of them has to be stored: with a secret of this process, with which they end, or
    with the one that the nodes of a cluster share.
    """

    def __init__(self, shared_secret: str = "") -> None:
        own = secrets.token_bytes(32)
        self._secret = hmac.digest(shared_secret.encode(), b"tickets", hashlib.sha256) if shared_secret else own

    def issue(self, job_id: str, *, owner: str, expires_at: int) -> str:
        """Return a ticket for the recording of a job, valid up to Unix time ``expires_at``."""
        signed = f"{job_id}\n{owner}\n{expires_at}".encode("utf-8", "replace")  # the last two have no line breaks
        signature = base64.urlsafe_b64encode(hmac.digest(self._secret, signed, hashlib.sha256))
        return f"{expires_at}.{signature.decode().rstrip('=')}"

    def is_valid(self, ticket: str, job_id: str, *, owner: str, now: float) -> bool:
        """Return True if the ticket was issued for this job and this owner, and has not expired."""
        match = _TICKET.fullmatch(ticket)
        if match is None or int(match["expires_at"]) <= now:
            return False
        return hmac.compare_digest(self.issue(job_id, owner=owner, expires_at=int(match["expires_at"])), ticket)
