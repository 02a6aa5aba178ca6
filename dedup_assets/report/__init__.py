"""The report of a curation: one HTML page, its pictures."""
