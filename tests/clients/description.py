"""What the tests look up in an OpenAPI document."""

from __future__ import annotations

import re
from typing import Any


class Description:
    """An OpenAPI document. Paths are looked up with ``{}`` for every parameter, whatever its name is."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def path(self, sought: str) -> str:
        """The path as the document spells it."""
        (found,) = (path for path in self.document["paths"] if re.sub(r"\{[^}]*\}", "{}", path) == sought)
        return str(found)

    def answers(self, method: str, path: str, status: int = 200) -> list[str]:
        """The names of the schemas of a JSON answer."""
        content = self.document["paths"][self.path(path)][method]["responses"][str(status)]["content"]
        schema = content["application/json"]["schema"]
        return [self._name(one) for one in schema.get("anyOf") or schema.get("oneOf") or [schema]]

    def answer(self, method: str, path: str, status: int = 200, *, having: str | None = None) -> str:
        """The one among them, or the one with the property ``having``."""
        names = self.answers(method, path, status)
        (found,) = (name for name in names if having is None or having in self.schema(name)["properties"])
        return found

    def form(self, path: str) -> str:
        """The name of the schema of a form."""
        content = self.document["paths"][self.path(path)]["post"]["requestBody"]["content"]
        return self._name(content["multipart/form-data"]["schema"])

    def schema(self, name: str) -> dict[str, Any]:
        schema: dict[str, Any] = self.document["components"]["schemas"][name]
        return schema

    @staticmethod
    def _name(schema: dict[str, Any]) -> str:
        assert "$ref" in schema, f"generators name the type after a path: give it a name of its own: {schema}"
        return str(schema["$ref"]).rsplit("/", 1)[1]
