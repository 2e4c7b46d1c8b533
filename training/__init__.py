"""How the mini models in `kqv/minis` were made: `python -m training mini-gpt`. For development only; kqv never imports it."""
