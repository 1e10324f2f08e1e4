"""``python -m tests.faults.impatient SECONDS``: the service, which looks that often at how fast a body comes."""

from __future__ import annotations

import sys

from app.__main__ import end, main
from app.edge.connections import ConnectionLimits

if __name__ == "__main__":
    defaults = ConnectionLimits.__init__.__kwdefaults__
    assert defaults is not None
    defaults["window_seconds"] = float(sys.argv[1])
    end(main())
