"""Text as vectors: distances, embeddings and decoding.

- `corpus`: texts prepared for many comparisons
- `decoding`: from the laws of a next token to texts: greedy, sampled, by beam search
- `language_models`: a small causal and a small masked language model
- `loaders`: readers of public dialogues, word vectors and sentence pairs
- `markov`: decoding of Markov chains, exactly: when text ends, and how long it is
- `tokenizer`: words to numbers and back
- `transport`: optimal transport between discrete masses, exact and Sinkhorn's
- `word_movers`: distances between texts by optimal transport of word vectors
"""
