"""Transfers between this service and the URLs that clients name."""
