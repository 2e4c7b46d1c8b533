"""Watch a text being written, with the token that the last layer looks at most: `python examples/generate.py [http://127.0.0.1:8000]`."""

import asyncio
import sys

from service.client import AsyncClient


async def main(address: str = "http://127.0.0.1:8000", text: str = "the cat") -> None:
    async with AsyncClient(address) as client:
        model = next(model.id for model in await client.models() if "decoder" in model.groups)
        stream = client.stream(text, model=model, max_new_tokens=8, layers=[-1], weights="top")
        async with stream:
            async for token in stream:
                keys = token.attention["decoder"].top.keys[0, :, -1, 0]
                print(f"{token.text!r:>12}  each head looks at token {keys.tolist()}")
        print(text + stream.answer[0].text)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
