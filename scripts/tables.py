"""Writes the tables of the README that the tables of the code decide: make tables."""

from __future__ import annotations

import re
from pathlib import Path

from neuronbert import heads
from neuronbert.architectures import ARCHITECTURES, TASKS
from neuronbert.families import REFUSED
from neuronbert.models import NeuronTracedModel

README = Path(__file__).parent.parent / "README.md"


def tasks() -> str:
    """The tasks, with the classes that open them and what these give."""
    classes = {own.task: own.__name__ for own in NeuronTracedModel.__subclasses__()}
    bert = {own.task: own.__name__ for own in vars(heads).values() if getattr(own, "model_type", None) == "bert"}
    rows = [
        (name, bert.get(name, ""), classes[name], ", ".join(output.name for output in task.outputs))
        for name, task in TASKS.items()
    ]
    return _table(("task", "BERT", "any architecture", "outputs"), rows)


def families() -> str:
    """The families, with the heads that each has, and those that are refused."""
    columns = [name for name in TASKS if any(name in row.heads for row in ARCHITECTURES.values())]
    rows = [(name, *("yes" if task in row.heads else "" for task in columns)) for name, row in ARCHITECTURES.items()]
    refused = "\n".join(f"- `{name}`: {reason}" for name, reason in sorted(REFUSED.items()))
    heads_refused = "\n".join(
        f"- `{name}`: {reason}" for row in ARCHITECTURES.values() for name, reason in row.refused.items()
    )
    table = _table(("model_type", *columns), rows)
    return f"{table}\n\nRefused, with the reason in the error:\n\n{refused}\n{heads_refused}"


def updated(text: str) -> str:
    """A page with its tables written anew: what stands between `<!-- table: NAME -->` and `<!-- end -->`."""
    made = {"tasks": tasks, "families": families}
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?(\n<!-- end -->)",
        lambda found: found[1] + made[found[2]]() + found[3],
        text,
        flags=re.DOTALL,
    )


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(line) + " |" if line != lines[1] else "|" + "|".join(line) + "|" for line in lines
    )


if __name__ == "__main__":
    before = README.read_text(encoding="utf-8")
    README.write_text(updated(before), encoding="utf-8")
    print("unchanged" if updated(before) == before else f"wrote {README.name}")
