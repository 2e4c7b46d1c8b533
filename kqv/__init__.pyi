from .analysis import Analysis, Checks, GroupAnalysis, TopWeights
from .attention.attend import attend
from .attention.linformer import Linformer
from .attention.longformer import Longformer
from .attention.multi_head import MultiHeadResult, Projections, draw_projections, multi_head
from .attention.performer import Performer
from .attention.result import AttentionResult
from .attention.variants import Comparison, compare
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
    "Comparison",
    "Generated",
    "Generation",
    "GroupAnalysis",
    "Input",
    "InputError",
    "Job",
    "KqvError",
    "Linformer",
    "Longformer",
    "Model",
    "ModelConfig",
    "ModelShape",
    "MultiHeadResult",
    "Performer",
    "Projections",
    "Sampling",
    "Selection",
    "TokenSequence",
    "TopWeights",
    "UnsupportedError",
    "attend",
    "compare",
    "draw_projections",
    "load",
    "multi_head",
]
