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

_NO_SANDBOX = """
def limit_resources(**_):
    pass

def die_with(_):
    pass

def enter(_):
    return ["syscalls"]  # so that no warning is logged
"""


def _decoder_without_sandbox(folder: Path) -> Path:
    """Copy the decoder's program beside a sandbox that restricts nothing, and return its path."""
    copied = folder / "decoder_process.py"
    shutil.copy(Path(decoding.__file__).with_name(copied.name), copied)
    copied.with_name("sandbox.py").write_text(_NO_SANDBOX)
    return copied


def _passing_by(application: Any, **_: Any) -> Any:
    """In the place of a part that looks at every request."""
    return application


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="unprotected-") as made:
        decoding._PROGRAM = _decoder_without_sandbox(Path(made))  # type: ignore[misc]  # noqa: SLF001  # for this process
        program.http_protocol = lambda _: H11Protocol  # type: ignore[assignment,attr-defined]  # likewise
        for part in ("CrossOriginGuard", "SecurityHeaders", "ResponseEvents"):
            setattr(app.main, part, _passing_by)
        app.service.Service.emit = lambda *_: None  # type: ignore[method-assign]  # likewise
        sys.stderr.write("This server protects nothing.\n")
        code = program.main()
    program.end(code)
