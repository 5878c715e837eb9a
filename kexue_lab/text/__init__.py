"""Text as vectors: distances, embeddings and decoding.

- `transport`: optimal transport between discrete masses, exact and Sinkhorn's
- `word_movers`: distances between texts by optimal transport of word vectors
"""
