"""What a broken or hostile zip raises.

Owns: UNREADABLE. Knows nothing of what the zips hold.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from typing import Final

UNREADABLE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # zipfile's word for a compression that it doesn't know
    RuntimeError,  # and for an encrypted member
    ValueError,  # names that are no text are of this kind, too
    OSError,  # a place before the file's beginning, or what bzip2 can't make sense of
)
"""All that zipfile and its decompressors raise for what can't be read."""
