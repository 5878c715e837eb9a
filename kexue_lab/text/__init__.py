"""Text as vectors: distances, embeddings and decoding.

- `corpus`: texts prepared for many comparisons
- `cur_retrieval`: retrieval with a slow scorer, by CUR decomposition
- `decoding`: from the laws of a next token to texts: greedy, sampled, by beam search
- `dialogue`: dialogues as one sequence: encoding, losses, replies, a trained model
- `endless_decoding`: texts that do not stop, and layers that make them stop
- `fact_grammar`: dialogues of known probability, in which facts are told and asked for
- `geodesic_similarity`: distances along near neighbours, for a metric that is right nearby
- `language_models`: a small causal and a small masked language model
- `loaders`: readers of public dialogues, word vectors and sentence pairs
- `markov`: decoding of Markov chains, exactly: when text ends, and how long it is
- `p_tuning`: learnt vectors in the place of a template's words, before a frozen model
- `reviews`: reviews from a small grammar, and a masked language model that has read such texts
- `scorers`: two scorers of a query and an item, one that reads both together, one apart
- `tokenizer`: words to numbers and back
- `transport`: optimal transport between discrete masses, exact and Sinkhorn's
- `word_movers`: distances between texts by optimal transport of word vectors
"""
