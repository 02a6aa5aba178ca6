"""The report of a curation: one HTML page and its pictures."""
