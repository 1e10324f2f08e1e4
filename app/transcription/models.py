"""Which models are served, under which names, and what each can do."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import InvalidRequest, UnknownModel
from app.domain.languages import LANGUAGES
from app.domain.transcript import Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: What OpenAI's clients ask for; here it is whichever model is served.
MODEL_ALIAS: Final = "whisper-1"
#: Names of models, and of directories called after them, that write down other languages as they are.
_UNTRANSLATING: Final = re.compile(r"turbo|distil|\.en\b")
_ENGLISH_ONLY: Final = re.compile(r"\.en\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """What is known of a model. Before it is loaded ``name`` is what the settings say, and the rest is a guess.

    ``languages`` are the codes of those that it has a token for.
    """

    name: str
    loaded: bool = False
    device: str = "cpu"
    compute_type: str = "auto"
    is_multilingual: bool = True
    languages: frozenset[str] = frozenset(LANGUAGES)

    @property
    def can_translate(self) -> bool:
        """Whether it was trained to write English for other languages: English ones, turbo and distil were not."""
        return self.is_multilingual and not _UNTRANSLATING.search(self.name.lower())

    def require(self, *, task: Task, language: str | None) -> None:
        """Raises InvalidRequest for what the model was not trained for. ``language`` is a code."""
        if task is Task.TRANSLATE and not self.can_translate:
            raise InvalidRequest(
                f"The model {self.name} can't translate: have WHISPER_MODEL set to a multilingual one that can, such "
                "as medium or large-v3 (turbo, distil and .en models can't).",
                param="model",
            )
        if language not in (None, "en") and not self.is_multilingual:
            raise InvalidRequest(
                f"language={language} is not available: the model {self.name} knows English only. Have WHISPER_MODEL "
                "set to a multilingual one.",
                param="language",
            )
        if language is not None and language not in self.languages and self.is_multilingual:
            raise InvalidRequest(
                f"language={language} is not available: the model {self.name} does not know "
                "it. Leave it out to have the language detected, or have WHISPER_MODEL set to a newer model.",
                param="language",
            )


class ModelRegistry:
    """The models in the order of the settings, the default first.

    ``aliases`` are further names: of one of the models each, or of the default where the value is empty.
    """

    def __init__(
        self, default: str, others: Sequence[str] = (), aliases: Mapping[str, str] | None = None, **known: Any
    ) -> None:
        self._states = [_unloaded(name, **known) for name in dict.fromkeys((default, *others))]
        self._aliases = {MODEL_ALIAS: "", **(aliases or {})}

    @property
    def default(self) -> ModelState:
        return self._states[0]

    @property
    def states(self) -> tuple[ModelState, ...]:
        return tuple(self._states)

    @property
    def names(self) -> tuple[str, ...]:
        """Whatever a request may name: the models, then their aliases."""
        return tuple(dict.fromkeys((*(state.name for state in self._states), *self._aliases)))

    def find(self, given: str | None) -> ModelState:
        """The model of that name or alias; the default for None or nothing.

        Raises:
            UnknownModel: there is none.
        """
        served = {state.name: state for state in self._states}
        wanted = (given or "").strip()
        meant = wanted if wanted in served else self._aliases.get(wanted, wanted)
        if (state := served.get(meant or self.default.name)) is not None:
            return state
        raise UnknownModel(
            f"The model {wanted[:100]!r} is not served here: use {' or '.join(self.names)}, or leave model out. "
            "WHISPER_MODEL_ALIASES and WHISPER_MODELS add names.",
            param="model",
            code="model_not_found",
        )

    def update(self, known_as: str, /, **changes: Any) -> ModelState:
        """Writes down what has become known of a model, its real name included."""
        number = next(number for number, state in enumerate(self._states) if state.name == known_as)
        state = self._states[number] = replace(self._states[number], **changes)
        # ``auto`` may have turned out to be one of the others, and has aliases of its own.
        self._states = [one for place, one in enumerate(self._states) if place == number or one.name != state.name]
        self._aliases = {alias: state.name if name == known_as else name for alias, name in self._aliases.items()}
        return state


def _unloaded(name: str, **known: Any) -> ModelState:
    return ModelState(**{"name": name, "is_multilingual": not _ENGLISH_ONLY.search(name.lower()), **known})
