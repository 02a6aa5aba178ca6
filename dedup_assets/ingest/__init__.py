"""Source files to valid records: which files there are, their formats, what of a row goes on and what is refused."""
