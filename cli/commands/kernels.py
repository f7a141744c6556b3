"""neuronbert kernels."""

from .. import _output


def kernels() -> None:
    """Compile the kernels of integer programs, and of those that drop tokens. Without them such programs run slower.

    Example: neuronbert kernels
    """
    with _output.progress() as progress:
        from neuronbert import build_kernels

        progress("compiling the kernels")
        built = build_kernels()
    _output.data(str(built))
