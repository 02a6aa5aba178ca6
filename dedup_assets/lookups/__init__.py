"""Questions to a curated corpus and their answers as values: why, what is near, what happened, what came out."""
