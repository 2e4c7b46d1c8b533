"""kqv opens the K, Q and V of a transformer: attention weights, outputs and per-head diagnostics of real models.

model = kqv.load("minilm")
[analysis] = model.analyze(["The cat sat on the mat."])
analysis.attention["encoder"].diagnostics["entropy"]      # [layers, heads]
"""

from kqv.analysis import Analysis, Checks, GroupAnalysis, TopWeights
from kqv.attention.attend import attend
from kqv.attention.multi_head import MultiHeadResult, Projections, draw_projections, multi_head
from kqv.attention.result import AttentionResult
from kqv.config import ModelConfig
from kqv.engine import Job, Model, load
from kqv.errors import CheckpointError, InputError, KqvError, UnsupportedError
from kqv.inputs import Input, TokenSequence
from kqv.selection import Selection

__all__ = [
    "Analysis",
    "AttentionResult",
    "CheckpointError",
    "Checks",
    "GroupAnalysis",
    "Input",
    "InputError",
    "Job",
    "KqvError",
    "Model",
    "ModelConfig",
    "MultiHeadResult",
    "Projections",
    "Selection",
    "TokenSequence",
    "TopWeights",
    "UnsupportedError",
    "attend",
    "draw_projections",
    "load",
    "multi_head",
]
