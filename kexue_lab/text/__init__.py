"""Text as vectors: distances, embeddings and decoding.

- `word_movers`: distances between texts by optimal transport of word vectors
"""
