"""Numbers to tables, pages and pictures."""
