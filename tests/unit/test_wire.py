"""What crosses between a pool and its workers."""

from __future__ import annotations

import socket
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuronbert import errors
from neuronbert.workers import wire

DIMS = st.lists(st.integers(1, 40), min_size=1, max_size=3)


def sent(head: dict[str, object], *tensors: torch.Tensor) -> tuple[dict[str, object], tuple[torch.Tensor, ...]]:
    near, far = socket.socketpair()
    with near, far:
        sender = threading.Thread(target=wire.send, args=(near, wire.pack(head, tensors)))
        sender.start()
        found = wire.receive(far)
        sender.join()
    return found


@given(st.lists(st.tuples(DIMS, st.sampled_from([torch.int64, torch.float32])), max_size=4), st.integers())
def test_tensors_arrive_as_they_were(parts: list[tuple[list[int], torch.dtype]], number: int) -> None:
    tensors = [torch.randn(dims).mul(1e4).to(dtype) for dims, dtype in parts]
    head, found = sent({"program": number}, *tensors)
    assert head == {"program": number}
    assert len(found) == len(tensors)
    assert all(torch.equal(tensor, other) for tensor, other in zip(tensors, found, strict=True))


def test_a_message_larger_than_the_sockets_room_arrives() -> None:
    tensor = torch.randn(1 << 21)
    assert torch.equal(sent({}, tensor)[1][0], tensor)


def test_a_view_arrives_as_what_it_shows() -> None:
    tensor = torch.arange(12).view(3, 4).T[1:]
    assert torch.equal(sent({}, tensor)[1][0], tensor)


@pytest.mark.parametrize("size", [0, 1, 12, 40])
def test_an_end_in_mid_message_is_an_end(size: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        near.sendall(b"".join(wire.pack({}, [torch.ones(4)]))[:size])
        near.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            wire.receive(far)


@pytest.mark.parametrize(
    "error",
    [
        errors.BackendUnavailableError("inf2", "there is none"),
        errors.ArtifactCorruptError("/a/b", "is broken"),
        errors.SequenceTooLongError(9, 4),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_arrives_in_its_own_class_and_words(error: errors.NeuronBertError) -> None:
    found = wire.unpack_error(sent(wire.pack_error(error))[0])
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)


def test_any_other_error_arrives_as_one_of_ours() -> None:
    found = wire.unpack_error(wire.pack_error(MemoryError("no room\nat all")))
    assert isinstance(found, errors.WorkerFailedError)
    assert "MemoryError: no room." in str(found)
