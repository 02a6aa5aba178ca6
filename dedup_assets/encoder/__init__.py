"""Embedding models: where they are, what their files ask for, and which one a workspace is held to."""
