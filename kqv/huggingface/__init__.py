"""Any transformers model whose attention goes through transformers' registry of attention functions; needs `kqv[transformers]`.

Its layers call a function of ours with their queries, keys and values, and that hands them to whoever attends for the pass, as the
layers of a transformer of ours do. What can't be had exactly is refused when the model is loaded: each one is run there on a few
tokens, and held against transformers' own eager attention.
"""

from kqv.huggingface.loading import knows, read

__all__ = ["knows", "read"]
