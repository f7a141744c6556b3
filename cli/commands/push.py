"""neuronbert push-to-hub."""

from typing import Annotated

import typer

from .. import _output
from .._options import FolderArgument, Json, Token


def push_to_hub(
    artifact: FolderArgument,
    repository_id: Annotated[str, typer.Argument(help="NAME or ORGANISATION/NAME; made if it isn't there.")],
    private: Annotated[bool | None, typer.Option("--private", help="Make it private, if it is made.")] = None,
    revision: Annotated[str | None, typer.Option(help="The branch; made if it isn't there.")] = None,
    token: Token = None,
    force: Annotated[bool, typer.Option("--force", help="Push although the validation failed.")] = False,
    json_: Json = False,
) -> None:
    """Push an artifact to the Hugging Face Hub, in one commit with its model card.

    Example: neuronbert push-to-hub out/ my-org/bert-neuron --private
    """
    with _output.progress() as progress:
        progress(f"pushing {artifact}")
        from neuronbert import Artifact, publish

        address = publish(artifact, repository_id, private=private, revision=revision, token=token, force=force)
    if json_:
        _output.as_json({"commit": address})
    else:
        _output.data(address)
    if Artifact.open(artifact, verify=False).report() is None:
        _output.note(f"It was not validated, and its card says so. Next time: neuronbert validate {artifact}")
