from .analysis import Analysis, Checks, GroupAnalysis, TopWeights
from .attention.attend import attend
from .attention.multi_head import MultiHeadResult, Projections, draw_projections, multi_head
from .attention.result import AttentionResult
from .config import ModelConfig, ModelShape
from .engine import Job, Model, load
from .errors import CheckpointError, InputError, KqvError, UnsupportedError
from .generate import Generated, Generation
from .inputs import Input, TokenSequence
from .sampling import Sampling
from .selection import Selection

__all__ = [
    "Analysis",
    "AttentionResult",
    "CheckpointError",
    "Checks",
    "Generated",
    "Generation",
    "GroupAnalysis",
    "Input",
    "InputError",
    "Job",
    "KqvError",
    "Model",
    "ModelConfig",
    "ModelShape",
    "MultiHeadResult",
    "Projections",
    "Sampling",
    "Selection",
    "TokenSequence",
    "TopWeights",
    "UnsupportedError",
    "attend",
    "draw_projections",
    "load",
    "multi_head",
]
