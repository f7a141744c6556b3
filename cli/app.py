"""The Typer app."""

from typing import Annotated, Any, Final, cast

import typer
from typer.core import TyperCommand, TyperGroup

from neuronbert import __version__

from ._errors import reported
from ._output import note
from .commands import cache
from .commands.bench import bench
from .commands.check import check
from .commands.convert_megatron import convert_megatron
from .commands.doctor import doctor
from .commands.embed_dataset import embed_dataset
from .commands.export import export
from .commands.inspect import inspect
from .commands.kernels import kernels
from .commands.predict import predict
from .commands.push import push_to_hub
from .commands.quantize import quantize
from .commands.search_lengths import search_lengths
from .commands.serve import serve
from .commands.validate import validate

_REFUSED: Final[type[Any]] = typer.BadParameter.__bases__[0]
"""What click raises for options that can't be read; where typer has click from depends on its version."""

app = typer.Typer(
    name="neuronbert",
    help="Compile BERT-family encoders for AWS Neuron devices, or for any CPU; validate, run and publish them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # The spellings of optimum-cli (--batch_size) are those of this command with underscores.
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)
for command in (
    *(check, export, validate, bench, predict, inspect, push_to_hub, convert_megatron, doctor),
    *(quantize, kernels, search_lengths, serve, embed_dataset),
):
    app.command()(reported()(command))
caching = typer.Typer(help="See, clear and check the programs that are kept to be copied.", no_args_is_help=True)
for part in (cache.ls, cache.rm, cache.verify):
    caching.command()(reported()(part))
app.add_typer(caching, name="cache")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"neuronbert {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Compile BERT-family encoders for AWS Neuron devices, or for any CPU; validate, run and publish them."""


def main() -> None:
    """Run the command line."""
    _run(cast(TyperGroup, typer.main.get_command(app)), None, prog_name="neuronbert")


def run_alone(name: str, arguments: list[str], program: str) -> None:
    """Run one command under another program's name, and end the process as it ends."""
    group = cast(TyperGroup, typer.main.get_command(app))
    _run(cast(TyperCommand, group.commands[name]), arguments, prog_name=program, **group.context_settings)


def _run(command: TyperCommand | TyperGroup, arguments: list[str] | None, **settings: Any) -> None:
    # typer would draw a box of five lines around what is wrong: here it is one, as for all other errors.
    try:
        code = command.main(arguments, standalone_mode=False, **settings)
    except _REFUSED as error:
        said = " ".join(error.format_message().split()).rstrip(".")
        if said:  # not if it was help that was asked for: it is printed
            said += "" if said.endswith("?") else "."
            note(f"Error: {said} See: {error.ctx.command_path} --help" if error.ctx else f"Error: {said}")
        code = error.exit_code
    raise SystemExit(code)
