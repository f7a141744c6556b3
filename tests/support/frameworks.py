"""What llama-index's and haystack's clients get from a server, as JSON. Run in an environment that has them.

python frameworks.py URL '["text", "other text"]'
"""

from __future__ import annotations

import json
import sys
from typing import Any

from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.embedders.huggingface_api import (
    HuggingFaceAPIDocumentEmbedder,
    HuggingFaceAPITextEmbedder,
)
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference


def main(url: str, texts: list[str]) -> dict[str, Any]:
    """By client and call: vectors of the texts, the first one's, or places of the others with their scores for it."""
    index = TextEmbeddingsInference(base_url=url, model_name="embed", timeout=60)
    place = {"api_type": "text_embeddings_inference", "api_params": {"url": url}, "token": Secret.from_token("none")}
    documents = [Document(content=text, meta={"place": number}) for number, text in enumerate(texts)]
    embedded = HuggingFaceAPIDocumentEmbedder(**place).run(documents=documents)["documents"]
    ranked = HuggingFaceTEIRanker(url=url, token=None, top_k=2).run(query=texts[0], documents=documents)["documents"]
    return {
        "texts": {
            "llama-index": index.get_text_embedding_batch(texts),
            "haystack": [document.embedding for document in embedded],
        },
        "first": {
            "llama-index": index.get_query_embedding(texts[0]),
            "haystack": HuggingFaceAPITextEmbedder(**place).run(text=texts[0])["embedding"],
        },
        "ranks": [(document.meta["place"], document.score) for document in ranked],
    }


if __name__ == "__main__":
    json.dump(main(sys.argv[1], json.loads(sys.argv[2])), sys.stdout)
