"""Without DATABASE_URL, the service is one process as before."""

from __future__ import annotations

import subprocess
import sys

from tests.support.program import ROOT

_CHECK = """
import sys
import app.__main__
from app.main import create_app
from app.settings import Settings

create_app(Settings(_env_file=None), stop=lambda _: None)
print(sorted({"app.cluster", "procrastinate", "psycopg", "obstore", "cryptography"} & set(sys.modules)))
"""


def test_nothing_of_a_cluster_is_imported_without_a_database() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CHECK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "[]"
