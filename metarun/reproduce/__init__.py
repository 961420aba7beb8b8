"""Published tables, compared with our results."""
