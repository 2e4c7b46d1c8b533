"""The parts of the engine that are written in C, and what calls them; nothing needs them for a correct answer."""
