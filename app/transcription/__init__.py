"""Audio in, transcript out."""
