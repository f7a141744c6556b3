"""`optimum-cli export neuronbert`: the same command as `neuronbert export`, where optimum's users look for it.

Installed as optimum/commands/register/register_neuronbert.py, in the namespace whose files optimum-cli imports when it
starts (optimum/commands/optimum_cli.py, `load_optimum_namespace_cli_commands`). So it imports nothing heavy.

Owns: handing the command line over as it is. Knows nothing of the options.
"""

from argparse import REMAINDER, ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class NeuronbertExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]  # optimum is untyped
    """optimum-cli export neuronbert."""

    COMMAND = CommandInfo(
        name="neuronbert", help="Compile a BERT-family encoder for AWS Neuron devices, or for any CPU."
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Take everything that follows as it stands."""
        # argparse would look for options of its own among it, --help first: no argument begins with this character.
        parser.prefix_chars = "\0"
        parser.add_argument("arguments", nargs=REMAINDER)

    def run(self) -> None:
        """Run `neuronbert export` with what was given, and end with its exit code."""
        from neuronbert_cli.app import run_alone

        run_alone("export", self.args.arguments, "optimum-cli export neuronbert")


REGISTER_COMMANDS = [(NeuronbertExportCommand, ExportCommand)]
