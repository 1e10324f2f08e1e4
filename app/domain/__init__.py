"""The vocabulary: values and pure functions on the standard library."""
