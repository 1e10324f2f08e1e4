"""The hardened HTTP front: connections, deadlines, rate limits, and checks made before a body is read."""
