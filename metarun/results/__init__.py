"""Results as files, tables, pages and figures."""
