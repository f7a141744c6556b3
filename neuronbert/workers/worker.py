"""What a process of a pool does: it loads the artifact and runs one call after another.

Owns: the child's side of a pool. Run as `python -m neuronbert.workers.worker FD FOLDER DIGEST THREADS NICENESS`: the
number of an open socket, the artifact, the digest that its programs must have, how many threads torch may use, and how
far it stands back. It ends when the socket is closed; and, in whatever it is, when stdin is.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import torch

from neuronbert.errors import ArtifactCorruptError
from neuronbert.lifeline import end_with_parent
from neuronbert.runtime import Session
from neuronbert.workers import wire


def serve(connection: socket.socket, folder: Path, digest: str) -> None:
    """Load an artifact, say whether that went well, and answer calls until the connection is closed."""
    try:
        session = _open(folder, digest)
    except Exception as error:  # noqa: BLE001  it is the parent that raises it
        wire.send(connection, wire.pack(wire.pack_error(error)))
        return
    wire.send(connection, wire.pack({}))
    while True:
        try:
            head, tensors = wire.receive(connection)
        except EOFError:
            return
        _answer(connection, session, head["program"], tensors)


def _open(folder: Path, digest: str) -> Session:
    # Verified anew in every process: one that is started later must not go on with what has replaced the folder.
    session = Session.open(folder)
    if session.manifest.programs_sha256 != digest:
        raise ArtifactCorruptError(folder, "is another artifact than the one that was loaded")
    return session


def _answer(connection: socket.socket, session: Session, number: int, tensors: tuple[torch.Tensor, ...]) -> None:
    names = [spec.name for spec in session.manifest.inputs]
    try:
        outputs = session.run(dict(zip(names, tensors, strict=True)), shape=session.manifest.shapes[number])
    except Exception as error:  # noqa: BLE001  it is the parent that raises it
        wire.send(connection, wire.pack(wire.pack_error(error)))
    else:
        wire.send(connection, wire.pack({}, [output.float() for output in outputs.values()]))


def main() -> None:
    """Serve the process that started this one."""
    end_with_parent()
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it may print, although it isn't in the terminal's foreground
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends its workers
    number, folder, digest, threads, niceness = sys.argv[1:]
    os.nice(int(niceness))  # on Linux it is a thread's, and handed on to those that are started from now on
    torch.set_num_threads(int(threads))
    with socket.socket(fileno=int(number)) as connection:
        try:
            serve(connection, Path(folder), digest)
        except OSError:
            return  # the parent has closed its end, and waits for no answer


if __name__ == "__main__":
    main()
