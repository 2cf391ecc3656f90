"""Kinds of decoding: each is a file of hypotheses `<kind>.txt` in a decoding's folder, and a column of reports."""

# as sentences call them
WAYS = {
    "greedy": "greedy",
    "lexicon": "with the lexicon",
    "lm": "with the language model",
    "one_of": "as one of the labels",
    "beam": "by beam search",
}
KINDS = tuple(WAYS)
