"""Text to vectors: where a model is, what its files ask for, tokens, batches, and the model of a workspace."""
