"""What metarun needs of other libraries that they do not promise."""
