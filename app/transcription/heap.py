"""The memory that the C library keeps for later after it was freed."""

from __future__ import annotations

import ctypes


def return_free_memory() -> None:
    """Return freed memory to the operating system, as far as the C library can (glibc). Blocks for milliseconds.

    Blocks of many sizes that come and go leave gaps, which glibc keeps: without this, a recording of 10 h needed 226 MB
    more than the idle service (tiny, batches of 5), and 195 MB with it before each batch. It costs 1 to 2 % of a core
    at tiny, since the pages have to be zeroed again, and less with larger models.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
