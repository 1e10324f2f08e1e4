"""Lookups in an OpenAPI document."""

from __future__ import annotations

import re
from typing import Any


class Description:
    """An OpenAPI document. Paths are given with ``{}`` for each parameter."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def path(self, pattern: str) -> str:
        """Return the path with the names of its parameters."""
        (path,) = (path for path in self.document["paths"] if re.sub(r"\{[^}]*\}", "{}", path) == pattern)
        return str(path)

    def responses(self, method: str, path: str, status: int = 200) -> list[str]:
        """Return the names of the schemas of a JSON response."""
        content = self.document["paths"][self.path(path)][method]["responses"][str(status)]["content"]
        schema = content["application/json"]["schema"]
        return [self._name(member) for member in schema.get("anyOf") or schema.get("oneOf") or [schema]]

    def response(self, method: str, path: str, status: int = 200, *, having: str | None = None) -> str:
        """Return the name of the only schema, or of the only one with the property ``having``."""
        names = self.responses(method, path, status)
        (chosen,) = (name for name in names if having is None or having in self.schema(name)["properties"])
        return chosen

    def form(self, path: str) -> str:
        """Return the name of a form's schema."""
        content = self.document["paths"][self.path(path)]["post"]["requestBody"]["content"]
        return self._name(content["multipart/form-data"]["schema"])

    def schema(self, name: str) -> dict[str, Any]:
        """Return a schema by its name."""
        schema: dict[str, Any] = self.document["components"]["schemas"][name]
        return schema

    @staticmethod
    def _name(schema: dict[str, Any]) -> str:
        assert "$ref" in schema, f"a schema without a name, which code generators would name after a path: {schema}"
        return str(schema["$ref"]).rsplit("/", 1)[1]
