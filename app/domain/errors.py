"""Every exception of this service, each saying what happened in a sentence for the person it concerns.

* ServiceError
  * InvalidRequest            the request can't be honoured as it is
    * RefusedUrl              a URL that this service must not or can't use
    * UnusableAudio           empty, undecodable, without an audio stream
      * UndecodableAudio
      * AudioTooLong
    * BodyTooLarge
    * UnknownModel
    * UnknownJob
  * Unauthorized              no API key, or a wrong one
  * CrossOriginRequest               a browser asks for a page of another site
  * Unavailable               not now; the same request may succeed later
    * QueueFull
    * TooManyRequests
    * ModelLoading
    * Draining
    * DiskFull
    * EngineFailed          the transcription engine has died; the process ends, to be started again
  * TransferFailed            bytes could not be moved
    * DownloadFailed
    * DeliveryFailed
  * TranscriptionFailed       the model raised an error
  * TooManyStarts             the process died again and again while it worked on this job
  * AudioLost                 the audio of an accepted job is not there any more
  * JournalFailed             the journal can't be written; the process ends, to be started again
  * ShutDown                  the service ended before the job did
  * ModelUnavailable          the model can't be loaded; the start ends
  * IllegalTransition         a job can't go from this status to that one: a bug of ours
"""

from __future__ import annotations


class ServiceError(Exception):
    """The root. ``str()`` of each is one clear sentence that holds no secret."""


class InvalidRequest(ServiceError):
    """The request can't be honoured.

    ``param`` names the form field at fault, ``code`` is a stable word for programs; both may be missing.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class RefusedUrl(InvalidRequest):
    """A URL that the rules refuse, or that is known not to work."""


class UnusableAudio(InvalidRequest):
    """The audio can't be transcribed."""

    def __init__(self, message: str, *, code: str = "invalid_audio") -> None:
        super().__init__(message, param="file", code=code)


class UndecodableAudio(UnusableAudio):
    """The bytes are not audio in any format that is read here."""


class AudioTooLong(UnusableAudio):
    """The audio is longer than is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="audio_too_long")


class BodyTooLarge(InvalidRequest):
    """The request body, or the file behind a URL, has more bytes than is allowed."""


class UnknownModel(InvalidRequest):
    """The request names a model that is not served."""


class UnknownJob(InvalidRequest):
    """No job has this id, or it belongs to another key."""


class Unauthorized(ServiceError):
    """The request carries no API key that is known here."""


class CrossOriginRequest(ServiceError):
    """The request comes from a page of another site, which a service without keys does not serve."""


class Unavailable(ServiceError):
    """Not now. ``retry_after_seconds`` (1 to 120) says when to try again."""

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = min(max(retry_after_seconds, 1), 120)


class QueueFull(Unavailable):
    """As many jobs wait as are allowed to."""


class TooManyRequests(Unavailable):
    """One key, or one address, asks more often than it may."""


class ModelLoading(Unavailable):
    """The model is not loaded yet."""


class EngineFailed(Unavailable):
    """The transcription engine itself has died, with all that it worked on."""


class Draining(Unavailable):
    """The service is shutting down and takes no new work."""


class DiskFull(Unavailable):
    """There is no disk space left to take the request."""


class TransferFailed(ServiceError):
    """A download or an upload failed for good.

    ``attempts`` counts those made; ``retryable`` says whether the last one failed for a passing reason, and
    ``retry_after_seconds`` what the other side asked for, if it asked for more than a round lasts.
    """

    def __init__(
        self, message: str, *, attempts: int, retryable: bool, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.attempts = attempts
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds


class DownloadFailed(TransferFailed):
    """The audio could not be fetched."""


class DeliveryFailed(TransferFailed):
    """The result, or word of it, could not be put where the user wants it."""


class TranscriptionFailed(ServiceError):
    """The model raised an error of its own."""


class TooManyStarts(ServiceError):
    """The process died each time while it worked on this job, which is tried no more."""


class AudioLost(ServiceError):
    """The audio of a job that was accepted is not where it was put."""


class JournalFailed(ServiceError):
    """What must survive a crash can't be written down."""


class ShutDown(ServiceError):
    """The service was shut down before the job had finished."""


class ModelUnavailable(ServiceError):
    """The model can't be loaded."""


class IllegalTransition(ServiceError):
    """A job was moved to a status that can't follow its present one."""
