"""The page's modules: their own tests in Node, their types, and what no asset may contain."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

import pytest

from tests.clients.programs import output_of

ROOT: Final = Path(__file__).parents[2]
WEB: Final = ROOT / "app" / "web"
ASSETS: Final = sorted(path for path in (WEB / "assets").rglob("*") if path.suffix in {".css", ".html", ".js"})
MODULE_TESTS: Final = sorted(Path(__file__).parent.glob("*.test.js"))

#: Ways to turn text into markup, code or style. The Content Security Policy refuses most of them, but only in use.
_FORBIDDEN: Final = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|setHTML\w*"
    r"|\beval\(|new Function|<style|\sstyle=|setAttribute\(\s*[\"']style|\son\w+=[\"']|javascript:|@import|https?://(?!www\.w3\.org/)\w",
)


@pytest.mark.anyio
@pytest.mark.parametrize("path", MODULE_TESTS, ids=lambda path: path.name)
async def test_module_tests_pass(path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    await output_of(node, "--test", path, cwd=path.parent)


@pytest.mark.anyio
@pytest.mark.full(reason="installs and runs the TypeScript compiler")
async def test_types_of_modules_are_right(node_packages: Path) -> None:
    await output_of("node", node_packages / "typescript" / "bin" / "tsc", "--project", WEB, cwd=WEB)


@pytest.mark.parametrize("path", ASSETS, ids=lambda path: str(path.relative_to(WEB / "assets")))
def test_asset_makes_no_markup_code_or_style_from_text(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if _FORBIDDEN.search(line)] == []


@pytest.mark.parametrize("path", [path for path in ASSETS if path.suffix != ".html"], ids=lambda path: path.name)
def test_no_string_goes_over_several_lines(path: Path) -> None:
    """Lines are served without their margins."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.count("`") % 2] == []


@pytest.mark.parametrize(
    "line",
    [
        'element.innerHTML = "x"',
        "eval(text)",
        '<p style="color: red">',
        "<p onclick='run()'>",
        'fetch("https://b.example/x")',
    ],
)
def test_forbidden_text_is_found(line: str) -> None:
    assert _FORBIDDEN.search(line)
