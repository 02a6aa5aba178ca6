"""Text to vectors: where a model is, what its files ask for, tokens, batches, and which model a workspace is held to."""
