"""The hardened HTTP front: connections, deadlines, rates and what is decided before a body is read."""
