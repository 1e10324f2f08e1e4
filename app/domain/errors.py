"""The exceptions of this service. The message of each is one sentence for the person whom it concerns.

* ServiceError
  * InvalidRequest            the request can't be fulfilled as it is
    * RefusedUrl              the URL is not allowed, or can't work
    * UnusableAudio           the audio can't be transcribed
      * UndecodableAudio      the audio can't be decoded
      * AudioTooLong          the audio is longer than the limit
    * UnusableReference       the reference recording of a known speaker can't be used
    * BodyTooLarge            the body or the file is larger than the limit
    * EncodedBody             the body is compressed
    * UnknownModel            the model is not served
    * UnknownJob              there is no such job
    * NotKept                 the job has no such file
    * EditConflict            the transcript was edited meanwhile
  * Unauthorized              the API key is missing or wrong
    * InvalidTicket           the ticket is wrong or has expired
  * QuotaExceeded             the API key has used all of its audio for today
  * CrossOriginRequest        the request comes from a web page of another site
  * Unavailable               the same request can succeed later
    * QueueFull               the queue is full
    * TooManyRequests         the rate limit is exceeded
    * TooManySessions         there are as many realtime sessions as allowed
    * ModelLoading            the model is still being loaded
    * EngineFailed            the transcription engine died, and the process ends
    * Draining                the service is shutting down
    * DiskFull                there is not enough disk space
    * StorageUnavailable      the database of a cluster can't be reached
      * SpoolUnavailable      the object store that holds the spool does not respond
  * TransferFailed            bytes could not be transferred
    * DownloadFailed          the audio could not be downloaded
    * DeliveryFailed          the result or webhook event could not be delivered
  * TranscriptionFailed       the model raised an error
  * DecoderUnavailable        no file can be decoded on this machine
  * TooManyStarts             the process died repeatedly while it worked on this job
  * AudioLost                 the audio of an accepted job is missing
  * JournalFailed             the journal can't be written, and the process ends
  * ShutDown                  the service ended before the job did
  * ModelUnavailable          the model can't be loaded, and the process ends
  * IllegalTransition         a job was moved to a status that can't follow its current one, which is a bug
"""

from __future__ import annotations


class ServiceError(Exception):
    """The base of all exceptions. ``str()`` is one sentence that contains no secret."""


class InvalidRequest(ServiceError):
    """The request can't be fulfilled.

    ``param`` is the form field at fault, if any. ``code`` is a stable word for programs, if there is one.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class RefusedUrl(InvalidRequest):
    """The URL rules refuse a URL, or it can't work."""


class UnusableAudio(InvalidRequest):
    """The audio can't be transcribed."""

    def __init__(self, message: str, *, code: str = "invalid_audio") -> None:
        super().__init__(message, param="file", code=code)


class UndecodableAudio(UnusableAudio):
    """The audio has no format that the service can decode."""


class AudioTooLong(UnusableAudio):
    """The audio is longer than ``MAX_AUDIO_SECONDS``."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="audio_too_long")


class UnusableReference(InvalidRequest):
    """The reference recording of a known speaker can't be used."""

    def __init__(self, message: str) -> None:
        super().__init__(message, param="known_speaker_references", code="invalid_reference")


class BodyTooLarge(InvalidRequest):
    """The request body, or the file behind a URL, is larger than ``MAX_UPLOAD_BYTES``."""


class EncodedBody(InvalidRequest):
    """The request body has a content encoding, such as gzip."""


class UnknownModel(InvalidRequest):
    """The request names a model that is not served."""


class UnknownJob(InvalidRequest):
    """No job has this id, or it belongs to another API key."""


class NotKept(InvalidRequest):
    """The job did not keep what is asked for, such as its recording."""


class EditConflict(InvalidRequest):
    """The transcript is no longer the version that the edit was made for."""


class Unauthorized(ServiceError):
    """The API key of the request is missing or wrong."""


class InvalidTicket(Unauthorized):
    """The ticket of the request is not valid for the recording, or has expired."""


class CrossOriginRequest(ServiceError):
    """The request comes from a web page of another site, which a service without API keys refuses."""


class QuotaExceeded(ServiceError):
    """An API key has used all of the audio that it may have transcribed in a day."""


class Unavailable(ServiceError):
    """The request can't be fulfilled now. Retry it after ``retry_after_seconds`` (1 to 120)."""

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = min(max(retry_after_seconds, 1), 120)


class QueueFull(Unavailable):
    """The queue already holds ``MAX_QUEUED_JOBS`` requests."""


class TooManyRequests(Unavailable):
    """An API key, or a client address, exceeded its rate limit."""


class TooManySessions(Unavailable):
    """There are already ``REALTIME_MAX_SESSIONS`` realtime sessions."""


class ModelLoading(Unavailable):
    """The model is still being loaded."""


class EngineFailed(Unavailable):
    """The transcription engine died, and all its transcriptions with it."""


class Draining(Unavailable):
    """The service is shutting down and accepts no requests."""


class DiskFull(Unavailable):
    """There is not enough disk space for the request."""


class StorageUnavailable(Unavailable):
    """The database of a cluster can't be reached."""


class SpoolUnavailable(StorageUnavailable):
    """The object store that holds audio and results can't be reached, or refuses requests."""


class TransferFailed(ServiceError):
    """A round of attempts to transfer bytes failed.

    ``attempts`` is their number. ``retryable`` is true if a later round can succeed; ``retry_after_seconds`` is the
    wait that the server asked for, if it is too long for a round.
    """

    def __init__(
        self, message: str, *, attempts: int, retryable: bool, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.attempts = attempts
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds


class DownloadFailed(TransferFailed):
    """The audio could not be downloaded."""


class DeliveryFailed(TransferFailed):
    """The result or the webhook event could not be delivered."""


class TranscriptionFailed(ServiceError):
    """The model raised an error."""


class DecoderUnavailable(ServiceError):
    """Decoder processes can't be started, which is a fault of this machine and not of a file."""


class TooManyStarts(ServiceError):
    """The process died each time it worked on this job, so the job is not started again."""


class AudioLost(ServiceError):
    """The audio of an accepted job is missing from the spool."""


class JournalFailed(ServiceError):
    """The journal can't be written."""


class ShutDown(ServiceError):
    """The service shut down before the job finished."""


class ModelUnavailable(ServiceError):
    """The model can't be loaded."""


class IllegalTransition(ServiceError):
    """A job was moved to a status that can't follow its current one."""
