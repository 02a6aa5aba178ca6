"""Output on a terminal or in a notebook cell: tables, progress, safe text."""
