"""The registry of the models that a server offers, their aliases and their abilities."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from app.domain.errors import InvalidRequest, UnknownModel
from app.domain.languages import LANGUAGES
from app.domain.redaction import without_queries
from app.domain.transcript import Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The names that OpenAI's clients send: aliases of the default model.
MODEL_ALIASES: Final = (
    "whisper-1",
    "gpt-transcribe",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-transcribe-diarize",
)
#: Matches the names of models, and of directories named after them, that were not trained to translate.
_CANNOT_TRANSLATE: Final = re.compile(r"turbo|distil|\.en\b")
_ENGLISH_ONLY: Final = re.compile(r"\.en\b")
#: Longer names are cut in messages.
_MAX_QUOTED: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """The properties of a model. Until it ``is_known``, because it has been loaded, they are a guess from its name.

    ``languages`` holds the codes of the languages that the model has a token for.
    """

    name: str
    loaded: bool = False
    is_known: bool = False
    device: str = "cpu"
    compute_type: str = "auto"
    is_multilingual: bool = True
    languages: frozenset[str] = frozenset(LANGUAGES)

    @property
    def public_name(self) -> str:
        """The name, or the last part of it if it is a path of this machine. Requests can use either."""
        return PurePath(self.name).name if self.name.startswith(("/", ".", "~")) else self.name

    @property
    def can_translate(self) -> bool:
        """True if the model was trained to translate into English: .en, turbo and distil models were not."""
        return self.is_multilingual and not _CANNOT_TRANSLATE.search(self.name.lower())

    def require(self, *, task: Task, language: str | None, languages: Sequence[str] = ()) -> None:
        """Raise InvalidRequest if the model was not trained for this task, or for one of these languages (codes)."""
        if task is Task.TRANSLATE and not self.can_translate:
            raise InvalidRequest(
                f"The model {self.name} can't translate: set WHISPER_MODEL to a multilingual model that can, such as "
                "medium or large-v3 (turbo, distil and .en models can't).",
                param="model",
            )
        for candidate in languages:
            self._require_language(candidate, param="languages")
        if language is not None:
            self._require_language(language, param="language")

    def _require_language(self, code: str, *, param: str) -> None:
        if code != "en" and not self.is_multilingual:
            raise InvalidRequest(
                f"`{param}` must be en or absent, got {code}: the model {self.name} only knows English. Set "
                "WHISPER_MODEL to a multilingual model for other languages.",
                param=param,
            )
        if code not in self.languages and self.is_multilingual:
            raise InvalidRequest(
                f"`{param}` must be one that the model {self.name} knows, got {code}: omit it to detect the "
                "language, or set WHISPER_MODEL to a newer model.",
                param=param,
            )


class ModelRegistry:
    """The models that a server offers, in the order of the settings, the default first.

    ``aliases`` maps further names to models. An empty value stands for the default model. ``compute_type`` is the one
    from the settings. If ``accepts_any``, requests can send any other name and get the default model.
    """

    def __init__(
        self,
        default: str,
        others: Sequence[str] = (),
        aliases: Mapping[str, str] | None = None,
        *,
        compute_type: str = "auto",
        accepts_any: bool = False,
    ) -> None:
        self._states = [_unloaded(name, compute_type) for name in dict.fromkeys((default, *others))]
        self._aliases = {**dict.fromkeys(MODEL_ALIASES, ""), **(aliases or {})}
        self._accepts_any = accepts_any

    @property
    def default(self) -> ModelState:
        return self._states[0]

    @property
    def states(self) -> tuple[ModelState, ...]:
        return tuple(self._states)

    @property
    def names(self) -> tuple[str, ...]:
        """All names that a request may use: those of the models, then the aliases."""
        return tuple(dict.fromkeys((*(state.name for state in self._states), *self._aliases)))

    def find(self, requested: str | None) -> ModelState:
        """Return the model with this name, alias or public name, or the default model for None or an empty name.

        Raises:
            UnknownModel: there is none.
        """
        states = {state.name: state for state in self._states}
        requested = (requested or "").strip()
        name = requested if requested in states else self._aliases.get(requested, requested)
        states = {state.public_name: state for state in reversed(self._states)} | states
        if (state := states.get(name or self.default.name)) is not None:
            return state
        raise UnknownModel(
            f"`model` must be {' or '.join(self.names)}, got {requested[:_MAX_QUOTED]!r}: use one of these or omit it. "
            "WHISPER_MODELS and WHISPER_MODEL_ALIASES add names.",
            param="model",
            code="model_not_found",
        )

    def choose(self, requested: str | None) -> tuple[ModelState, tuple[str, ...]]:
        """Return the model for a request, and a warning if it is not the one with the requested name.

        Raises:
            UnknownModel: there is none with this name, and the registry does not accept any name.
        """
        try:
            return self.find(requested), ()
        except UnknownModel:
            if not self._accepts_any:
                raise
        name = without_queries((requested or "").strip()[:_MAX_QUOTED])
        warning = f"`model` {name!r} is none of this server's names, so {self.default.public_name} was used."
        return self.default, (warning,)

    def update(self, name: str, state: ModelState) -> None:
        """Replace the state of the model ``name``. Its real name, in ``state``, may be another one.

        ``auto`` may turn out to be another of the models, which then appears only once.
        """
        states = [state if other.name == name else other for other in self._states]
        self._states = [other for other in states if other is state or other.name != state.name]
        self._aliases = {alias: state.name if model == name else model for alias, model in self._aliases.items()}


def _unloaded(name: str, compute_type: str) -> ModelState:
    is_multilingual = not _ENGLISH_ONLY.search(name.lower())
    return ModelState(name=name, compute_type=compute_type, is_multilingual=is_multilingual)
