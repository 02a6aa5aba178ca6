"""The rules of a growing corpus: what arrives, lives, is decided, published, taken back and cleaned up."""
