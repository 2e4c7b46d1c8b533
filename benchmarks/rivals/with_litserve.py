"""Embeddings by LitServe, batched as its documentation does it: `python with_litserve.py MODEL PORT`, where it is installed."""

import sys

import litserve
import torch
import transformers


class Embedder(litserve.LitAPI):  # type: ignore[misc] # it has its types in its own environment alone
    """Mean-pooled MiniLM by transformers' fused attention, padded."""

    def setup(self, device: str) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
        self.model = transformers.AutoModel.from_pretrained(sys.argv[1]).to(device).eval()

    def decode_request(self, request: dict[str, str]) -> str:
        return request["input"]

    def predict(self, texts: list[str]) -> list[list[float]]:
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
        with torch.inference_mode():
            hidden = self.model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        return ((hidden * mask).sum(1) / mask.sum(1)).tolist()

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        return {"embedding": output}


if __name__ == "__main__":
    server = litserve.LitServer(Embedder(max_batch_size=32, batch_timeout=0.005), accelerator="cpu")
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
