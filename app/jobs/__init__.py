"""What has been accepted, and what becomes of it."""
