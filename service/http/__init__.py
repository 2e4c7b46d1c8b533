"""Around every request: how HTTP is read, what is refused before a route sees it, and what is noted of it."""
