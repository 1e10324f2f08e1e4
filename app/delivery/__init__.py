"""Moving bytes between this service and the URLs that its users name."""
