"""The kqv command."""
