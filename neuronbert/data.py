"""What is read from files and written to them.

Owns: how strictly. Knows nothing of what it is.
"""

from pydantic import BaseModel, ConfigDict


class Data(BaseModel):
    """Values of exactly their types, none unknown, none changed afterwards."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
