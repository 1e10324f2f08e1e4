"""``python -m tests.faults.hurried SECONDS``: the service, whose rounds of delivery are that far apart."""

from __future__ import annotations

import sys

from app.__main__ import end, main
from app.delivery.retry import RoundSchedule

if __name__ == "__main__":
    defaults = RoundSchedule.__init__.__kwdefaults__
    assert defaults is not None
    defaults["waits"] = (float(sys.argv[1]),)
    end(main())
