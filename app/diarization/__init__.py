"""Speakers told apart by their voices: PCM in, turns out."""
