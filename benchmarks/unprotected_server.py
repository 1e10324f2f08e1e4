"""The service without protection, as the baseline of its cost: no guards, decoders without a sandbox, no metrics.

python -m benchmarks.unprotected_server
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
from app.transcription import decoder_launcher
from benchmarks.replacing import replace

_NO_SANDBOX = """
def limit_resources(**_):
    pass

def die_with(_):
    pass

def enter(_):
    return ["syscalls"]  # so that no warning is logged
"""


def _decoder_without_sandbox(folder: Path) -> Path:
    """Copy the program of the decoder server beside a sandbox module that does nothing, and return its path."""
    for name in ("decoder_server.py", "decoder_process.py"):
        shutil.copy(Path(decoder_launcher.__file__).with_name(name), folder)
    (folder / "sandbox.py").write_text(_NO_SANDBOX)
    return folder / "decoder_server.py"


def _unwrapped(application: Any, **_: Any) -> Any:
    """Return the application itself, in place of a middleware."""
    return application


def _plain_protocol(_connections: Any) -> type[H11Protocol]:
    return H11Protocol


def _emit_nothing(_service: Any, _event: Any) -> None:
    pass


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="unprotected-") as folder:
        replace(decoder_launcher, "_PROGRAM", _decoder_without_sandbox(Path(folder)))
        replace(program, "http_protocol", _plain_protocol)
        for middleware in ("CrossOriginGuard", "SecurityHeaders", "ResponseEvents"):
            replace(app.main, middleware, _unwrapped)
        replace(app.service.Service, "emit", _emit_nothing)
        sys.stderr.write("This server protects nothing.\n")
        code = program.main()
    program.end(code)
