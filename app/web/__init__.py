"""The web page at ``/``, for people; everything that it does goes through the public API."""
