"""Kinds of form fields: how each is parsed, checked and described in the OpenAPI schema.

Clients spell fields differently. OpenAI's SDKs send arrays as repeated ``name[]`` fields and objects as ``name[key]``.
Users of curl send ``name``, repeated or with commas, and some clients send JSON.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from app.domain.errors import InvalidRequest
from app.domain.names import clean_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off", ""})
_MAX_QUOTED: Final = 60


class Form:
    """The values of a received form, by the names of its fields without ``[]``."""

    def __init__(self, received: dict[str, list[str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, values in received.items():
            self._values.setdefault(name.removesuffix("[]"), []).extend(values)

    def __getitem__(self, field: Field[T]) -> T:
        """Return the value of a field.

        Raises:
            InvalidRequest: the value is not allowed.
        """
        return field.parse(self)

    def without(self, fields: Sequence[Field[Any]]) -> Self:
        """Return the form without some of its fields."""
        names = {name for field in fields for name in field.names}
        return type(self)({name: values for name, values in self._values.items() if name not in names})

    def names_of(self, field: Field[Any]) -> list[str]:
        """Return the names, among the field's own and its aliases, that have a value in this form."""
        return [name for name in field.names if any(value.strip() for value in self._values.get(name, ()))]

    def has(self, field: Field[Any]) -> bool:
        """Return True if the field, or a member of it, has a value."""
        return any(self._has(name) for name in field.names)

    def requests(self, name: str) -> bool:
        """Return True if the field ``name`` has a value that does not mean no."""
        values = self._values.get(name, ["true"] if self._has(name) else [])
        return any(value.strip().lower() not in _FALSE for value in values)

    def sent(self, field: Field[Any]) -> list[str]:
        """Return all values of the field, in the order in which they were sent."""
        return list(chain.from_iterable(values for name, values in self._values.items() if name in field.names))

    def values(self, field: Field[Any]) -> list[str]:
        """Return the values of the field that are not blank, in the order in which they were sent."""
        return [value for value in self.sent(field) if value.strip()]

    def text(self, field: Field[Any]) -> str | None:
        """Return the only value of the field, or None if it has none.

        Raises:
            InvalidRequest: the field has several different values.
        """
        values = self.values(field)
        if len(set(values)) > 1:
            raise InvalidRequest(
                f"`{field.name}` was sent more than once with different values: send it once.", param=field.name
            )
        return values[0] if values else None

    def members(self, field: Field[Any]) -> dict[str, str]:
        """Return the members of an object that was sent as ``name[key]`` fields."""
        prefix = f"{field.name}["
        return {
            name[len(prefix) : -1]: values[-1]
            for name, values in self._values.items()
            if name.startswith(prefix) and name.endswith("]")
        }

    def object(self, field: Field[Any]) -> dict[str, str]:
        """Return the members of an object that was sent as JSON or as ``name[key]`` fields, without nulls.

        Raises:
            InvalidRequest: it is neither.
        """
        text = self.text(field)
        if text is None:
            return self.members(field)
        value = parse_json(field.name, text)
        if not isinstance(value, dict):
            raise InvalidRequest(f"`{field.name}` must be a JSON object, got {quoted(text)}.", param=field.name)
        return {key: str(item) for key, item in value.items() if item is not None}

    def _has(self, name: str) -> bool:
        return any(
            (key == name or key.startswith(f"{name}[")) and any(value.strip() for value in values)
            for key, values in self._values.items()
        )


@dataclass(frozen=True)
class Field(ABC, Generic[T]):
    """A field of a form, with the value that it has if it is absent.

    ``description``, ``default`` and ``example`` are Markdown. The last two become part of the description instead of
    keywords of the schema: ``/docs`` would send every example with each request, and generated clients every default.
    """

    name: str
    _: KW_ONLY
    description: str = ""
    default: str = ""
    example: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The field's name and its aliases."""
        return (self.name, *self.aliases)

    @property
    def schema_name(self) -> str:
        """The name to publish, as OpenAI's SDKs spell it."""
        return self.name

    @abstractmethod
    def parse(self, form: Form) -> T:
        """Return the value that the form has for this field.

        Raises:
            InvalidRequest: the value is not allowed.
        """

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema of the field."""
        return {**self._type(), "description": " ".join(self._sentences())}

    def _type(self) -> dict[str, Any]:
        return {"type": "string", "example": ""}

    def _sentences(self) -> Iterator[str]:
        yield self.description
        if self.default:
            yield f"Default: {self.default}."
        if self.example:
            yield f"Example: `{self.example}`."

    def _invalid(self, requirement: str, value: str | None = None) -> InvalidRequest:
        """Return an error that quotes at most the first 60 characters of the value."""
        got = "" if value is None else f", got {quoted(value)}"
        return InvalidRequest(f"`{self.name}` must {requirement}{got}.", param=self.name)

    def _check_size(self, text: str, max_bytes: int | None) -> None:
        size = len(text.encode("utf-8", "replace"))
        if max_bytes is not None and size > max_bytes:
            raise self._invalid(f"have at most {max_bytes} bytes, got {size}")


class File(Field[None]):
    """An uploaded file. It is streamed to the spool and has no value in the form."""

    def parse(self, form: Form) -> None:  # noqa: ARG002  # the signature of all kinds
        return None

    def _type(self) -> dict[str, Any]:
        return {**super()._type(), "format": "binary"}


class DataUrls(File):
    """Files as data URLs, as OpenAI's SDKs send them; streamed to the spool, too."""

    @property
    def schema_name(self) -> str:
        return f"{self.name}[]"

    def _type(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "string"}, "example": []}


@dataclass(frozen=True)
class Text(Field[str | None]):
    """Text, taken as it is; None if absent. ``max_bytes`` counts UTF-8."""

    _: KW_ONLY
    max_bytes: int | None = None

    def parse(self, form: Form) -> str | None:
        text = form.text(self)
        if text is not None:
            self._check_size(text, self.max_bytes)
        return text


class Url(Text):
    """A URL. Its query may hold a signature, so it counts as a secret."""


@dataclass(frozen=True)
class Number(Field[float | None]):
    """A number from ``minimum`` to ``maximum``; None if absent."""

    _: KW_ONLY
    minimum: float
    maximum: float

    def parse(self, form: Form) -> float | None:
        text = form.text(self)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not self.minimum <= value <= self.maximum:
            noun = "a number between" if math.isnan(value) else "between"
            raise self._invalid(f"be {noun} {self.minimum:g} and {self.maximum:.15g}", text)
        return value

    def _type(self) -> dict[str, Any]:
        return {**super()._type(), "type": "number", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True)
class WholeNumber(Field[int | None]):
    """A whole number from ``minimum`` to ``maximum``; None if absent."""

    _: KW_ONLY
    minimum: int
    maximum: int

    def parse(self, form: Form) -> int | None:
        value = Number(self.name, minimum=self.minimum, maximum=self.maximum).parse(form)
        if value is None:
            return None
        if not value.is_integer():
            raise self._invalid(f"be a whole number between {self.minimum} and {self.maximum}", f"{value:g}")
        return int(value)

    def _type(self) -> dict[str, Any]:
        return {**super()._type(), "type": "integer", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True)
class Flag(Field[bool]):
    """A boolean, with ``value_if_absent``."""

    _: KW_ONLY
    value_if_absent: bool = False

    def parse(self, form: Form) -> bool:
        text = form.text(self)
        if text is None:
            return self.value_if_absent
        word = text.strip().lower()
        if word not in _TRUE | _FALSE:
            raise self._invalid("be true or false", text)
        return word in _TRUE

    def _type(self) -> dict[str, Any]:
        return {**super()._type(), "type": "boolean"}


@dataclass(frozen=True)
class Choice(Field[E | None]):
    """One of ``choices``, in any case; None if absent."""

    _: KW_ONLY
    choices: tuple[E, ...]

    def parse(self, form: Form) -> E | None:
        text = form.text(self)
        return None if text is None else self.chosen(text)

    def chosen(self, text: str) -> E:
        """Return the choice that is spelled like ``text``."""
        for choice in self.choices:
            if choice.value == text.strip().lower():
                return choice
        raise self._invalid(f"be one of {', '.join(self.choices)}", text)

    def _type(self) -> dict[str, Any]:
        return {**super()._type(), "enum": [choice.value for choice in self.choices]}


@dataclass(frozen=True)
class TextList(Field[list[str]]):
    """A list of texts: repeated, separated by commas, or as a JSON array. Blank items are left out.

    ``max_bytes`` counts the items in UTF-8, separated by a comma and a space.
    """

    _: KW_ONLY
    max_bytes: int | None = None

    @property
    def schema_name(self) -> str:
        return f"{self.name}[]"

    def parse(self, form: Form) -> list[str]:
        parts = chain.from_iterable(_items(value) for value in form.values(self))
        items = [part.strip() for part in parts if part.strip()]
        self._check_size(", ".join(items), self.max_bytes)
        return items

    def _type(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "string"}, "example": []}


@dataclass(frozen=True)
class NameList(TextList):
    """A list of different names for people, each of at most ``max_length`` characters."""

    _: KW_ONLY
    max_length: int

    def parse(self, form: Form) -> list[str]:
        parts = chain.from_iterable(_items(value) for value in form.sent(self))
        names = [part.strip() for part in parts]
        if not any(names):
            return []
        for name in names:
            if not name:
                raise self._invalid("have no empty name: leave the name out, or fill it in")
            if len(name) > self.max_length:
                raise self._invalid(f"have names of at most {self.max_length} characters", name)
            if clean_name(name) != name:
                raise self._invalid("have names without control characters", name)
        if len(set(names)) < len(names):
            raise self._invalid("have different names", ", ".join(names))
        return names


@dataclass(frozen=True)
class ChoiceList(Field[frozenset[E]]):
    """Any number of ``choices``, spelled like a list of texts."""

    _: KW_ONLY
    choices: tuple[E, ...]

    @property
    def schema_name(self) -> str:
        return f"{self.name}[]"

    def parse(self, form: Form) -> frozenset[E]:
        choice = Choice(self.name, choices=self.choices)
        return frozenset(choice.chosen(text) for text in TextList(self.name).parse(form))

    def _type(self) -> dict[str, Any]:
        item = {"type": "string", "enum": [choice.value for choice in self.choices]}
        return {"type": "array", "items": item, "example": []}


@dataclass(frozen=True)
class StringObject(Field[dict[str, str] | None]):
    """A JSON object of strings, or ``name[key]`` fields; None if absent. ``max_bytes`` counts the JSON in UTF-8."""

    _: KW_ONLY
    max_bytes: int

    def parse(self, form: Form) -> dict[str, str] | None:
        members = form.members(self)
        text = form.text(self) or (json.dumps(members, ensure_ascii=False) if members else None)
        if text is None:
            return None
        self._check_size(text, self.max_bytes)
        return self._checked(parse_json(self.name, text))

    def check(self, value: Any) -> dict[str, str]:
        """Return the value of a member of a JSON body.

        Raises:
            InvalidRequest: it is not an object of strings, or too large.
        """
        checked = self._checked(value)
        self._check_size(json.dumps(checked), self.max_bytes)
        return checked

    def _checked(self, value: Any) -> dict[str, str]:
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise self._invalid('be a JSON object of strings, such as {"key": "value"}')
        return value


@dataclass(frozen=True)
class Repeated(Field[list[T]]):
    """A field that can be sent up to ``maximum`` times, each time with a value of the kind ``item``."""

    _: KW_ONLY
    item: Field[T | None]
    maximum: int

    def parse(self, form: Form) -> list[T]:
        values = form.values(self)
        if len(values) > self.maximum:
            raise self._invalid(f"be sent at most {self.maximum} times, got {len(values)}")
        forms = [Form({self.name: [value]}) for value in values] or [form]
        items = [form[self.item] for form in forms]
        return [item for item in items if item is not None]

    def _type(self) -> dict[str, Any]:
        item = self.item._type()  # noqa: SLF001  # of the same class
        return {"anyOf": [item, {"type": "array", "items": item, "maxItems": self.maximum}]}


def parse_json(name: str, text: str) -> Any:
    """Return the value of a field that holds JSON."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate could not be written into any response
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"`{name}` must be valid JSON: send a JSON object.", param=name) from exc
    return value


def quoted(value: str) -> str:
    """Return the value as messages quote it, cut to 60 characters."""
    return value if len(value) <= _MAX_QUOTED else f"{value[:_MAX_QUOTED]}…"


def _items(value: str) -> list[str]:
    if value.lstrip().startswith("["):
        try:
            items = json.loads(value)
        except (ValueError, RecursionError):
            items = None
        if isinstance(items, list) and all(isinstance(item, str) for item in items):
            return items
    return value.split(",")
