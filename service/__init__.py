"""kqv over HTTP: the engine behind a queue, one JSON contract, and problem documents where it can't answer."""
