"""The configuration of a session, as ``session.update`` and ``POST /v1/realtime/client_secrets`` send it.

An update names what changes: a member that is absent stays, and null is the default, except that ``turn_detection``
null means that the client commits. Members that this server does not know are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.domain.errors import InvalidRequest
from app.domain.languages import chinese_script, language_code
from app.domain.transcript import SpeechDetection, TranscriptionOptions
from app.realtime.audio import AudioFormat

#: Far more than the 224 tokens that the model uses.
_MAX_PROMPT_CHARACTERS: Final = 16_384
_MAX_KEYWORDS: Final = 1_000
_MAX_KEYWORD_CHARACTERS: Final = 256
_MAX_LANGUAGES: Final = 100
_TRANSCRIPTION: Final = "session.audio.input.transcription"
#: Models of OpenAI that leave it to the client to commit. Clients that name them send nothing about turn detection.
_WITHOUT_TURN_DETECTION: Final = ("gpt-live-transcribe", "gpt-realtime-whisper")
_LOGPROBS: Final = "item.input_audio_transcription.logprobs"
_NO_NOISE_REDUCTION: Final = (
    "`audio.input.noise_reduction` has no effect: this server transcribes the audio as it is sent."
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class PcmFormat(_Part):
    """PCM: s16, little-endian, mono, at 24 kHz."""

    type: Literal["audio/pcm"]
    rate: Literal[24000] = 24000


class G711Format(_Part):
    """G.711 at 8 kHz: µ-law or A-law."""

    type: Literal["audio/pcmu", "audio/pcma"]


class Transcription(_Part):
    """The options of the model."""

    model: Annotated[str, Field(max_length=512)] | None = None
    language: Annotated[str, Field(max_length=64)] | None = None
    languages: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=_MAX_LANGUAGES)] | None = None
    prompt: Annotated[str, Field(max_length=_MAX_PROMPT_CHARACTERS)] | None = None
    keywords: (
        Annotated[list[Annotated[str, Field(max_length=_MAX_KEYWORD_CHARACTERS)]], Field(max_length=_MAX_KEYWORDS)]
        | None
    ) = None


class ServerVad(_Part):
    """The ends of utterances are found by silence."""

    type: Literal["server_vad"] = "server_vad"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, Field(ge=0, le=5_000)] = 300
    silence_duration_ms: Annotated[int, Field(ge=50, le=30_000)] = 500


class NoiseReduction(_Part):
    """Accepted and without effect."""

    type: Literal["near_field", "far_field"] | None = None


class AudioInput(_Part):
    """The input of a session."""

    format: Annotated[PcmFormat | G711Format, Field(discriminator="type")] = PcmFormat(type="audio/pcm")
    transcription: Transcription = Transcription()
    noise_reduction: NoiseReduction | None = None
    turn_detection: ServerVad | None = ServerVad()


class Audio(_Part):
    """The audio of a session, which has only an input."""

    input: AudioInput = AudioInput()


class SessionConfig(_Part):
    """The whole configuration; the defaults are OpenAI's."""

    type: Literal["transcription"] = "transcription"
    audio: Audio = Audio()
    include: list[Literal["item.input_audio_transcription.logprobs"]] | None = None

    @property
    def format(self) -> AudioFormat:
        return AudioFormat(self.audio.input.format.type)

    @property
    def turn_detection(self) -> ServerVad | None:
        return self.audio.input.turn_detection

    @property
    def speech_detection(self) -> SpeechDetection:
        """The parameters of voice activity detection for what was said."""
        return (
            SpeechDetection()
            if self.turn_detection is None
            else SpeechDetection(threshold=self.turn_detection.threshold)
        )

    @property
    def includes_logprobs(self) -> bool:
        return _LOGPROBS in (self.include or ())

    @property
    def options(self) -> TranscriptionOptions:
        """The options of the transcription; several ``languages`` are the candidates for its detection.

        Raises:
            InvalidRequest: a language is not known, or ``language`` is none of ``languages``.
        """
        wanted = self.audio.input.transcription
        language = _codes("language", [wanted.language or ""])
        candidates = _codes("languages", wanted.languages or [])
        if language and candidates and not language.keys() <= candidates.keys():
            raise InvalidRequest(
                f"`{_TRANSCRIPTION}.language` must be one of `languages`, got {wanted.language}: leave one of the two "
                "out.",
                param=f"{_TRANSCRIPTION}.language",
            )
        codes = language or candidates
        return TranscriptionOptions(
            model=wanted.model,
            language=next(iter(codes)) if len(codes) == 1 else None,
            languages=tuple(codes) if len(codes) > 1 else (),
            script=next((script for name in codes.values() if (script := chinese_script(name))), None),
            prompt=wanted.prompt,
            hotwords=", ".join(wanted.keywords) if wanted.keywords else None,
            token_logprobs=self.includes_logprobs,
            speech_detection=self.speech_detection,
        )

    @property
    def warnings(self) -> list[str]:
        """Sentences about what was asked for and has no effect."""
        return [] if self.audio.input.noise_reduction is None else [_NO_NOISE_REDUCTION]

    def updated(self, update: Any) -> SessionConfig:
        """Return the configuration with what ``update``, a JSON value, changes.

        Raises:
            InvalidRequest: a member is not valid. The message names it.
        """
        if not isinstance(update, dict):
            raise InvalidRequest('`session` must be a JSON object such as {"type": "transcription"}.', param="session")
        _refuse_what_is_missing(update)
        try:
            return SessionConfig.model_validate(_merged(self.model_dump(), _with_turn_detection(update)))
        except ValidationError as exc:
            raise _invalid(exc) from None


def _codes(member: str, names: list[str]) -> dict[str, str]:
    """Return the codes of languages, each with the name that was sent for it; empty names are left out.

    Raises:
        InvalidRequest: a language is not known.
    """
    codes: dict[str, str] = {}
    for name in filter(None, names):
        if (code := language_code(name)) is None:
            raise InvalidRequest(
                f"`{_TRANSCRIPTION}.{member}` must be an ISO-639-1 code such as en, got {name}: correct it, or omit it "
                "to detect the language.",
                param=f"{_TRANSCRIPTION}.{member}",
            )
        codes.setdefault(code, name)
    return codes


def _refuse_what_is_missing(update: dict[str, Any]) -> None:
    """Raise InvalidRequest for what OpenAI's protocol has and this server has not."""
    if (kind := update.get("type", "transcription")) != "transcription":
        raise InvalidRequest(
            f"`session.type` must be transcription, got {str(kind)[:100]}: this server transcribes, and has no model "
            "that talks.",
            param="session.type",
        )
    match update:
        case {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}:
            raise InvalidRequest(
                "`session.audio.input.turn_detection.type` must be server_vad, or turn_detection null to commit "
                "yourself: this server has no semantic_vad.",
                param="session.audio.input.turn_detection.type",
            )


def _with_turn_detection(update: dict[str, Any]) -> dict[str, Any]:
    """Return an update, without turn detection if its model has none and it says nothing about that."""
    match update:
        case {"audio": {"input": {"transcription": {"model": str(model)}, **others}}}:
            if model in _WITHOUT_TURN_DETECTION and "turn_detection" not in others:
                return _merged(update, {"audio": {"input": {"turn_detection": None}}})
    return update


def _merged(current: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with an update: objects member by member, except formats, which have different ones."""
    merged = dict(current)
    for name, value in update.items():
        if value is None and name in ("audio", "input", "transcription", "format"):
            merged.pop(name, None)
        elif isinstance(value, dict) and isinstance(merged.get(name), dict) and name != "format":
            merged[name] = _merged(merged[name], value)
        else:
            merged[name] = value
    return merged


def _invalid(exc: ValidationError) -> InvalidRequest:
    """Return the error for the first member that is not valid."""
    error = exc.errors(include_url=False)[0]
    names = [str(part) for part in error["loc"] if part not in ("audio/pcm", "audio/pcmu", "audio/pcma")]
    path = ".".join(["session", *names])
    reason = str(error["msg"]).replace("Input should", "must").replace("String should", "must")
    if error["type"].startswith("union_tag"):
        path, reason = f"{path}.type", "must be 'audio/pcm', 'audio/pcmu' or 'audio/pcma'"
    value = error["input"]
    shown = f", got {str(value)[:100]}" if isinstance(value, str | int | float) else ""
    return InvalidRequest(f"`{path}` {reason[0].lower()}{reason[1:]}{shown}.", param=path)
