"""Outcomes of the model for windows, made without one."""

from __future__ import annotations

from types import SimpleNamespace

from app.transcription.accepted_decoding import AcceptedDecoding
from app.transcription.fallback import Decoding
from app.transcription.window import Timeline


def accepted(frames: int) -> AcceptedDecoding:
    """Return an accepted decoding without text that covers this many frames."""
    return AcceptedDecoding(
        decoding=Decoding(tokens=(), text="", temperature=0.0, avg_logprob=0.0, no_speech_prob=0.0),
        temperature=0.0,
        uncertain=False,
        phrases=[],
        frames_done=frames,
        tokenizer=SimpleNamespace(eot=0),
        seek=0,
        timeline=Timeline(()),
        word_timestamps=False,
        token_logprobs=False,
    )
