"""Speakers: their labels, which words are theirs, and where a segment changes from one to another."""

from __future__ import annotations


def speaker_label(number: int) -> str:
    """Return the label of a speaker without a name, counted from 0: ``A`` to ``Z``, then ``AA``, ``AB`` and so on."""
    label = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        label = chr(ord("A") + letter) + label
    return label
