"""Attention as functions: tensors in, a small frozen result out.

One letter, one meaning:

    B  batch entries          T  queries             D  width of a head's queries and keys
    H  query heads            S  keys                E  width of a head's values
    G  key/value heads        N  packed tokens       W  width of the residual stream

`dense` is the specification; every other form adds speed or reach, never another meaning, and is tested equal to it.
"""
