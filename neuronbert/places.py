"""Where neuronbert keeps what it makes for itself.

Owns: the root of the caches. Knows nothing of what is kept there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

FOLDER_VARIABLE: Final = "NEURONBERT_CACHE_DIR"


def cache_folder() -> Path:
    """NEURONBERT_CACHE_DIR; or neuronbert/ below XDG_CACHE_HOME, which counts only if it is absolute, or ~/.cache."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base / "neuronbert"
    try:
        return Path.home() / ".cache" / "neuronbert"
    except RuntimeError:  # a user without a home; as HOME=/ in a container
        return Path("/.cache/neuronbert")
