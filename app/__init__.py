"""Self-hosted speech-to-text with OpenAI's API, on your own GPU or CPU."""

__version__ = "0.2.0"
