"""kqv opens the K, Q and V of a transformer: attention weights, outputs and per-head diagnostics of real models.

model = kqv.load("minilm")
[analysis] = model.analyze(["The cat sat on the mat."])
analysis.attention["encoder"].diagnostics["entropy"]      # [layers, heads]
"""

import lazy_loader

# The names are in __init__.pyi; each is imported when it is first used, so that the model store can be had without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
