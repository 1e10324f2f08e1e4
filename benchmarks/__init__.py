"""Measurements of speed and memory, described in README.md beside this file."""
