"""A module as the tracer takes it fastest.

Owns: Flat. Knows nothing of what is traced, or what for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class Flat(nn.Module):
    """A module as one that holds all its weights itself, and no other module.

    The tracer would describe every submodule, half of the time it takes, where only the weights matter.

    Args:
        module: What is called.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = (module,)  # in a tuple, so that it is not registered as a submodule
        for name, weight in module.named_parameters():
            self.register_parameter(name.replace(".", "__"), weight)
        for name, value in module.named_buffers():
            self.register_buffer(name.replace(".", "__"), value)

    def forward(self, *inputs: Tensor) -> Any:
        """What the module gives."""
        return self._module[0](*inputs)
