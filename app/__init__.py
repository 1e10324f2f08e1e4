"""Self-hosted speech-to-text with OpenAI's API, on your own GPU or CPU."""

import os

__version__ = "0.2.0"

# Before numpy is imported: its matrices here are so small that further threads of its own only use up cores. With
# two threads, the features of an hour took 11 core-seconds instead of 1.2.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
