"""CI compile-validation: every cell of a matrix file exported and validated, each in a process of its own.

Owns: the public names: `run` and `load`, and what they take and give. Knows nothing of torch.
"""

from neuronbert.matrix.expansion import Matrix, load
from neuronbert.matrix.results import MatrixReport, Result
from neuronbert.matrix.runner import run
from neuronbert.matrix.settings import Listener, Settings

__all__ = ["Listener", "Matrix", "MatrixReport", "Result", "Settings", "load", "run"]
