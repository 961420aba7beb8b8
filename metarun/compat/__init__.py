"""Names of other libraries that are private or may change, one library a file; tests/compat checks each by name."""
