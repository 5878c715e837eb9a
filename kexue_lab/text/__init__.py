"""Text as vectors: distances, embeddings and decoding."""
