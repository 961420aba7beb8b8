"""Is it right, and how fast: each by another route."""
