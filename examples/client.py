"""Ask a running server which heads look at the token before, as numpy arrays: `python examples/client.py [http://127.0.0.1:8000]`."""

import sys

import numpy as np

from service.client import Client, ClientError


def main(address: str = "http://127.0.0.1:8000", text: str = "The cat sat on the mat.") -> None:
    with Client(address, deadline_s=10) as client:
        try:
            [analysis] = client.analyze(text, weights="top", top_k=1, diagnostics=["previous"])
        except ClientError as error:
            sys.exit(f"{type(error).__name__}: {error}")
    [(group, found)] = list(analysis.attention.items())[:1]
    previous = np.nan_to_num(found.diagnostics["previous"])
    row, column = np.unravel_index(previous.argmax(), previous.shape)
    print(f"layer {found.layers[row]}, head {found.heads[column]} ({group}): {previous[row, column]:.1%} on the token before")
    for token, key in zip(analysis.tokens, found.top.keys[row, column, :, 0], strict=True):
        print(f"  {token:>12} looks at {analysis.tokens[key]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
