"""The service as it would be among friends: no guard at its door, decoders as free as itself, nothing counted.

What its protection costs is measured against it. Run: python -m benchmarks.unprotected_server
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

import app.__main__ as program
import app.main
import app.service
from app.transcription import decoding

_FREE = """
def limit_resources(**_):
    pass

def die_with(_):
    pass

def confine(_):
    return ["syscalls"]  # so that nothing is said about it
"""


def _free_child(folder: Path) -> Path:
    """The decoder's program beside a module that confines nothing."""
    child = folder / "decoder_process.py"
    shutil.copy(Path(decoding.__file__).with_name(child.name), child)
    child.with_name("sandbox.py").write_text(_FREE)
    return child


def _passing_by(application: Any, **_: Any) -> Any:
    """In the place of a part that looks at every request."""
    return application


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="unprotected-") as made:
        decoding._PROGRAM = _free_child(Path(made))  # type: ignore[misc]  # noqa: SLF001  # for this process
        program.http_protocol = lambda _: H11Protocol  # type: ignore[assignment,attr-defined]  # likewise
        for part in ("CrossOriginGuard", "SecurityHeaders", "ResponseEvents"):
            setattr(app.main, part, _passing_by)
        app.service.Service.emit = lambda *_: None  # type: ignore[method-assign]  # likewise
        sys.stderr.write("This server protects nothing.\n")
        code = program.main()
    program.end(code)
