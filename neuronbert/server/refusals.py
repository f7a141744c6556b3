"""What goes wrong, as clients are told.

Owns: Refusal, the table of statuses, and its form in each protocol. What a client reads names no path of this machine
and repeats nothing that it didn't send.
Source: text-embeddings-inference (docs/openapi.json and router/src/http), the Open Inference Protocol, Cohere's API.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from neuronbert.errors import (
    EmptyInputError,
    InputError,
    NeuronBertError,
    OverloadedError,
    PoolClosedError,
    RequestTooLargeError,
)

Kind = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]

_MISSED: Final = {499: "dropped", 504: "timeout"}
_UNSAID: Final = "The model could not answer. The server's log says why, under the x-request-id of this response."


class Refusal(Exception):  # noqa: N818  it is an answer, not a failure of ours
    """A request that is not answered as it wants to be.

    Attributes:
        status: Of the response.
        kind: As text-embeddings-inference calls it.
        message: For the client.
        retry_after: Seconds, where trying again helps.
    """

    def __init__(self, status: int, kind: Kind, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind: Kind = kind
        self.message = message
        self.retry_after = retry_after

    @property
    def meter(self) -> str:
        """What it is counted as: its kind; but who left or was late is not who found no room."""
        return _MISSED.get(self.status) or self.kind.lower()


def refused(error: NeuronBertError) -> Refusal:
    """What a client is told of an error of the library's."""
    if isinstance(error, OverloadedError):
        return Refusal(429, "Overloaded", str(error), retry_after=error.retry_after)
    if isinstance(error, RequestTooLargeError):
        return Refusal(413, "Validation", str(error))
    if isinstance(error, EmptyInputError):
        return Refusal(400, "Empty", "`inputs` cannot be empty")
    if isinstance(error, InputError):
        return Refusal(422, "Validation", str(error))
    if isinstance(error, PoolClosedError):
        return Refusal(503, "Unhealthy", "unhealthy")
    return Refusal(424, "Backend", _UNSAID)


def unserved(wanted: str, models: str) -> Refusal:
    """None of the models can do what a route is for."""
    return Refusal(424, "Backend", f"The model does not do {wanted}: {models}.")


def body(path: str, refusal: Refusal) -> dict[str, Any]:
    """A refusal in the form of the protocol that a path is of."""
    if path.startswith("/v1/"):
        return {"message": refusal.message, "code": refusal.status, "type": refusal.kind}
    if path == "/v2/rerank":
        return {"message": refusal.message}
    if path == "/v2" or path.startswith("/v2/"):
        return {"error": refusal.message}
    return {"error": refusal.message, "error_type": refusal.kind}
