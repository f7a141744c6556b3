"""NEFF files of the documented form: a header of 1024 bytes and a tarball.

The fields and their order are those of "Work with NEFF Files" in the Neuron SDK's documentation
(neuron-runtime/explore/work-with-neff-files.rst). It says neither the byte order nor how the tarball is compressed:
little-endian and gzip are what is built here.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
import uuid

HEADER_SIZE = 1024
HEADER = struct.Struct("<5Q128sI32s16s256sI64sQI468s")
assert HEADER.size == HEADER_SIZE


def build(
    name: str = "model",
    *,
    lnc: int = 1,
    cores: int = 1,
    version: tuple[int, int] = (2, 0),
    build_version: str = "2.26.6360.0",
    payload: bytes | None = None,
    feature_bits: int = 0,
    pkg_version: int = 2,
    data_size: int | None = None,
) -> bytes:
    """A NEFF: its header, and a payload (by default a tarball of one subgraph for each core of the logical core).

    Its data_size is what the payload has, unless another is given.
    """
    data = tarball(subgraphs(lnc)) if payload is None else payload
    digest = hashlib.sha256(data).digest()
    header = HEADER.pack(
        pkg_version,
        HEADER_SIZE,
        len(data) if data_size is None else data_size,
        *version,
        build_version.encode(),
        cores,
        digest,
        uuid.uuid5(uuid.NAMESPACE_OID, f"{name}-{digest.hex()}").bytes,
        name.encode(),
        cores,
        bytes([cores]),
        feature_bits,
        lnc,
        b"",
    )
    return header + data


def subgraphs(count: int = 1) -> dict[str, bytes]:
    """The files of a payload, as far as they are documented: each subgraph has a def.json of its variables."""
    variables = {
        "input0": {"type": "input", "var_id": 0, "size": 1024},
        "output0": {"type": "output", "var_id": 1, "size": 2048},
        "weight0": {"type": "file", "var_id": 2, "size": 64, "file_name": "weight0.npy"},
    }
    files = {"neff.json": b"{}"}
    for index in range(count):
        files[f"sg{index:02}/def.json"] = json.dumps({"dma_queue": {}, "var": variables}).encode()
        files[f"sg{index:02}/weight0.npy"] = bytes(64)
    return files


def tarball(files: dict[str, bytes], *, compressed: bool = True) -> bytes:
    """A tarball, the same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0) if compressed else buffer.getvalue()


def untar(payload: bytes) -> dict[str, bytes]:
    """The files of a tarball."""
    with tarfile.open(fileobj=io.BytesIO(payload)) as archive:
        members = ((member.name, archive.extractfile(member)) for member in archive)
        return {name: file.read() for name, file in members if file is not None}
