"""The same in Triton for a GPU, and what calls it; nothing needs it for a correct answer."""
