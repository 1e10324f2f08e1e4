"""Where an answer sends a download: which statuses are followed, how often, and what their ``Location`` may be.

Whether the target may be asked is told by the client, as for every URL: see :mod:`app.delivery.network`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urldefrag, urljoin

from app.delivery.failures import AttemptError
from app.delivery.targets import form_problem, has_unfit_character

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

#: 307 is not among them: for stores it means "later" (see :mod:`app.delivery.retry`).
FOLLOWED_STATUSES: Final = frozenset({301, 302, 303, 308})
MOST_REDIRECTS: Final = 5


def redirect_target(response: httpx.Response) -> str:
    """The URL that ``response``, which came through the guarded transport, leads to; without its fragment.

    Raises:
        AttemptError: it leads nowhere, for good; the sentence quotes nothing but a wrong scheme.
    """
    locations: Sequence[str] = response.extensions.get("location", [])
    status = response.status_code
    if not any(locations):
        raise AttemptError(f"HTTP {status} without a Location to go to", retryable=False)
    target = _joined(str(response.url), locations[0])
    problem = "is given twice" if len(locations) > 1 else form_problem(target)
    if problem is not None:
        raise AttemptError(
            f"HTTP {status} to a refused target: its Location {problem.removesuffix('.')}", retryable=False
        )
    return target


def too_many_redirects(status: int) -> AttemptError:
    """The failure of a download that is sent on once more."""
    return AttemptError(
        f"HTTP {status} after {MOST_REDIRECTS} redirects, and no more are followed: give the URL of the audio itself",
        retryable=False,
    )


def _joined(url: str, location: str) -> str:
    # urljoin takes some characters away that must be seen, and fails on some texts that are no URLs.
    if not has_unfit_character(location):
        with suppress(ValueError):
            return urldefrag(urljoin(url, location)).url
    return location
