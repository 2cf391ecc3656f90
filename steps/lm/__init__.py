"""Language models: n-grams from text, ARPA files, and the graphs that decoding with them needs."""
