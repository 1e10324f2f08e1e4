"""The voice of a reference: a clip in which a known speaker speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.diarization.clustering import largest_speaker
from app.diarization.conversation import BLOCK_SAMPLES, Conversation

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from app.diarization.models import VoiceModels


def voice_of(models: VoiceModels, samples: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Return the embedding of the one who speaks most in a clip (16 kHz), shape ``(192,)``, of unit length.

    ValueError says that there is no speech in it.
    """
    conversation = Conversation(models)
    for start in range(0, len(samples), BLOCK_SAMPLES):
        conversation.hear(samples[start : start + BLOCK_SAMPLES])
    conversation.hear(samples[:0], is_last=True)
    embeddings, seconds = conversation.voices()
    if not len(embeddings):
        raise ValueError("it has no speech of one person")
    return largest_speaker(embeddings, seconds)
