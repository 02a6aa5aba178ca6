"""The rules of a growing corpus: arrival, live texts, decisions, publication, retraction and maintenance."""
