"""The values of a form in whichever spelling clients send them, each refused with a sentence of its own.

OpenAI's SDKs send arrays as repeated ``name[]`` and objects as ``name[key]``; people with curl send ``name``,
repeated or with commas.
"""

from __future__ import annotations

import json
import math
from enum import StrEnum
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from app.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off", ""})

_NONE: Final[Mapping[str, str]] = MappingProxyType({})

E = TypeVar("E", bound=StrEnum)


class Fields:
    """The form's fields, looked at by name; ``other_names`` are taken for those behind them."""

    def __init__(self, received: dict[str, list[str]], *, other_names: Mapping[str, str] = _NONE) -> None:
        self._values: dict[str, list[str]] = {}
        for given, values in received.items():
            name = given.removesuffix("[]")
            self._values.setdefault(other_names.get(name, name), []).extend(values)

    def without(self, *names: str) -> Self:
        """The same form, without what was sent for ``names``."""
        return type(self)({name: values for name, values in self._values.items() if name not in names})

    def has(self, name: str) -> bool:
        """Whether the field, or a member of it, was sent with anything in it."""
        return any(
            (key == name or key.startswith(f"{name}[")) and any(value.strip() for value in values)
            for key, values in self._values.items()
        )

    def asks_for(self, name: str) -> bool:
        """Whether the field says anything but no."""
        values = self._values.get(name, ["true"] if self.has(name) else [])
        return any(value.strip().lower() not in _FALSE for value in values)

    def text(self, name: str) -> str | None:
        """The one value, or None where it is absent or empty."""
        values = [value for value in self._values.get(name, ()) if value.strip()]
        if len(set(values)) > 1:
            raise InvalidRequest(f"{name} was given more than once with different values: send it once.", param=name)
        return values[0] if values else None

    def number(self, name: str, *, least: float, most: float) -> float | None:
        """The value as a number from ``least`` to ``most``."""
        given = self.text(name)
        if given is None:
            return None
        try:
            value = float(given)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise InvalidRequest(
                f"{name}={_shown(given)} is not allowed: it must be a number from {least:g} to {most:g}.",
                param=name,
            )
        return value

    def whole_number(self, name: str, *, least: int, most: int) -> int | None:
        value = self.number(name, least=least, most=most)
        if value is None:
            return None
        if not value.is_integer():
            raise InvalidRequest(f"{name}={value:g} is not allowed: it must be a whole number.", param=name)
        return int(value)

    def flag(self, name: str, *, default: bool) -> bool:
        given = self.text(name)
        if given is None:
            return default
        word = given.strip().lower()
        if word not in _TRUE | _FALSE:
            raise InvalidRequest(f"{name}={_shown(given)} is not allowed: it must be true or false.", param=name)
        return word in _TRUE

    def choice(self, name: str, choices: type[E], *, without: frozenset[E] = frozenset()) -> E | None:
        given = self.text(name)
        return None if given is None else _choice(name, given, choices, without)

    def choices(self, name: str, choices: type[E]) -> frozenset[E]:
        return frozenset(_choice(name, given, choices, frozenset()) for given in self.items(name))

    def items(self, name: str) -> list[str]:
        """The members of an array: repeated, separated by commas, or written as JSON."""
        parts = chain.from_iterable(_parts(value) for value in self._values.get(name, ()))
        return [part.strip() for part in parts if part.strip()]

    def members(self, name: str) -> dict[str, str]:
        """An object sent as ``name[key]`` fields."""
        prefix = f"{name}["
        return {
            key[len(prefix) : -1]: values[-1]
            for key, values in self._values.items()
            if key.startswith(prefix) and key.endswith("]")
        }

    def strings_object(self, name: str, *, max_bytes: int) -> dict[str, str] | None:
        """A JSON object whose values are strings, of at most ``max_bytes``."""
        members = self.members(name)
        given = self.text(name) or (json.dumps(members, ensure_ascii=False) if members else None)
        if given is None:
            return None
        if len(given.encode()) > max_bytes:
            raise InvalidRequest(f"{name} is too large: at most {max_bytes} bytes are allowed.", param=name)
        value = json_value(name, given)
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise InvalidRequest(
                f'{name} is not allowed: it must be a JSON object of strings, such as {{"key": "value"}}.',
                param=name,
            )
        return value


def json_value(name: str, text: str) -> Any:
    """What a field that holds JSON means."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # half a character could be written into no answer
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"{name} is not JSON: send it as a JSON object.", param=name) from exc
    return value


def _parts(value: str) -> list[str]:
    if value.lstrip().startswith("["):
        try:
            parts = json.loads(value)
        except (ValueError, RecursionError):
            parts = None
        if isinstance(parts, list) and all(isinstance(part, str) for part in parts):
            return parts
    return value.split(",")


def _choice(name: str, given: str, choices: type[E], without: frozenset[E]) -> E:
    for choice in choices:
        if choice.value == given.strip().lower() and choice not in without:
            return choice
    allowed = ", ".join(choice.value for choice in choices if choice not in without)
    raise InvalidRequest(f"{name}={_shown(given)} is not allowed: choose one of {allowed}.", param=name)


def _shown(given: str) -> str:
    """A value as it may be quoted in a message: not at any length."""
    return given if len(given) <= 60 else f"{given[:60]}…"
