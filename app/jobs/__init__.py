"""Jobs, from their acceptance to the delivery of their results."""
