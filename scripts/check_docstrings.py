"""Check the language of docstrings and comments.

Usage: ``python scripts/check_docstrings.py [FILE_OR_FOLDER ...]``; without arguments it checks the whole tree. It
prints one line per problem and exits with 1 if there is any.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Checked when no argument is given; the linters run in the root of the repository.
FOLDERS: Final = ("app", "tests", "scripts", "benchmarks", "tools")

#: No docstring opens with one of these.
OPENINGS: Final = re.compile(
    r"(What|Who|Whom|Whose|Which|Whether|Whoever|Whatever|How|Where|When|Why|Those|That|Such|Has|Had|So)\b"
)
#: Words that can't be the verb of a function's docstring.
NOT_VERBS: Final = re.compile(
    r"(?:a|about|after|again|all|an|another|any|as|at|because|before|below|both|but|by|called|each|every|everything|for|"
    r"from|half|if|in|it|its|like|most|never|no|none|not|nothing|of|on|one|only|or|our|over|please|some|than|the|their|"
    r"them|there|these|they|this|three|to|two|under|until|up|we|while|with|within|without|[a-z]*[^s]s)"
)
#: Phrases that no docstring or comment contains, and the words to use instead.
PHRASES: Final = {
    r"\banew\b": "again",
    r"\b(?:not|\w+n't|nothing|nobody|never)\b[^.;:]{0,40}\bany more\b": "no longer",
    r"\bno more\b(?! than\b| \w+s\b)": "no longer",
    r"\b(?:is|are|be|been|was|were) told\b(?! apart)": "is notified, receives",
    r"\b(?:knows?|hears?) (?:of|nobody|nothing)\b": "depends on, receives",
    r"\bbut for\b": "except",
    r"\bso (?:many|much)\b(?![^.;]* that\b)": "this many, this much",
    r"\bwho(?:m|so)?ever\b": "a client, any caller",
    r"\bgives? (?:it )?back\b": "return",
    r"\bto whom\b": "that",
}


def problems_in(source: str) -> list[tuple[int, str]]:
    """Return the problems of one module's source, each with its line."""
    return sorted([*_docstring_problems(ast.parse(source)), *_comment_problems(source)])


def _docstring_problems(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node)
        if docstring is None:
            continue
        line, summary = node.body[0].lineno, docstring.partition("\n")[0]
        if opening := OPENINGS.match(docstring):
            yield line, f"a docstring opens with {opening[0]!r}: {summary}"
        elif _needs_a_verb(node) and not _is_imperative(docstring):
            yield line, f"a function's docstring does not start with an imperative verb: {summary}"
        yield from ((line, text) for text in _phrases(docstring))


def _needs_a_verb(node: ast.AST) -> bool:
    """Return True for functions except properties, fixtures and tests, whose docstrings can be noun phrases."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("test_"):
        return False
    return not any(re.search(r"property|fixture", ast.unparse(decorator)) for decorator in node.decorator_list)


def _is_imperative(docstring: str) -> bool:
    match = re.match(r"[A-Z][A-Za-z-]*(?=[\s,.:])", docstring)
    return match is not None and NOT_VERBS.fullmatch(match[0].lower()) is None


def _comment_problems(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from ((token.start[0], text) for text in _phrases(token.string))


def _phrases(text: str) -> Iterator[str]:
    flat = " ".join(text.split())
    for pattern, instead in PHRASES.items():
        for match in re.finditer(pattern, flat, re.IGNORECASE):
            yield f"{match[0]!r}: write {instead!r}"


def main(arguments: list[str]) -> int:
    """Check the named files and folders, print the problems and return the exit code."""
    roots = [Path(argument) for argument in arguments] or [Path(folder) for folder in FOLDERS]
    files = [file for root in roots for file in ([root] if root.is_file() else sorted(root.rglob("*.py")))]
    lines = [f"{file}:{line}: {text}" for file in files for line, text in problems_in(file.read_text(encoding="utf-8"))]
    print(*lines, f"{len(lines)} problems in {len(files)} files.", sep="\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
