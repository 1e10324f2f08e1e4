"""Speed and memory, measured; see README.md beside this file."""
