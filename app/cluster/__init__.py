"""Many machines: jobs in PostgreSQL, audio and results in an object store."""
