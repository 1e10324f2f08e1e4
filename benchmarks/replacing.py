"""Replacing parts of the service in the process of a baseline."""

from __future__ import annotations


def replace(owner: object, name: str, replacement: object) -> None:
    """Replace an attribute.

    Raises:
        AttributeError: The owner has no such attribute; the baseline would be the unchanged service.
    """
    getattr(owner, name)
    setattr(owner, name, replacement)
