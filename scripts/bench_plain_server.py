"""What people write first: sentence-transformers behind FastAPI, each request encoded by itself.

Run as `python bench_plain_server.py CHECKPOINT THREADS PORT`.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

app = FastAPI()


class Asked(BaseModel):
    """What OpenAI's clients send."""

    input: list[str]


@app.post("/v1/embeddings")
def embed(asked: Asked) -> dict[str, Any]:
    """A vector for each text."""
    found = app.state.model.encode(asked.input, normalize_embeddings=True, show_progress_bar=False)
    return {"data": [{"index": place, "embedding": vector.tolist()} for place, vector in enumerate(found)]}


def main() -> None:
    """Serve until it is killed."""
    checkpoint, threads, port = sys.argv[1:]
    torch.set_num_threads(int(threads))
    app.state.model = SentenceTransformer(checkpoint, device="cpu")
    uvicorn.run(app, port=int(port), log_level="error")


if __name__ == "__main__":
    main()
