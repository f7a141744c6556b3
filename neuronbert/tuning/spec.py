"""What a search for length configurations is asked for.

Owns: SearchSpec, and which values its options can take. Knows nothing of how a search is run.
"""

from __future__ import annotations

from dataclasses import dataclass

from neuronbert.adaptive.search import COSTS
from neuronbert.errors import InvalidOptionError
from neuronbert.tuning.scoring import FIDELITY


@dataclass(frozen=True, slots=True)
class SearchSpec:
    """What is searched, and for how long.

    Attributes:
        model: A checkpoint folder or a Hub id.
        data: A file of rows, one JSON object a line; labelled, unless the metric is "fidelity".
        task: The head's task; "auto" reads it off the checkpoint.
        metric: One of the task's own (accuracy, f1, exact_match, spearman), or "fidelity": how near the answers are to
            those at full length, which tells more from a few rows.
        sequence_length: What rows are padded and cut to.
        cost: "macs", in closed form; or "latency", measured here, one configuration at a time.
        generations: After the first population.
        children: Of a generation: half by crossing, half by mutation.
        population: How many configurations are tried first.
        rows: How many rows each is scored on, taken from the data by the seed.
        final_rows: How many those of the front are scored on in the end.
        drop: The share of its tokens that each layer of the cheapest configuration drops.
        seed: Of all that is random.
        jobs: Configurations scored at once, one core each.
        time_budget: Seconds after which no further generation is begun; None for no limit.
        revision: Branch, tag or commit of a Hub id.

    Raises:
        InvalidOptionError: an option has a value that it can't take.
    """

    model: str
    data: str
    task: str = "auto"
    metric: str = FIDELITY
    sequence_length: int = 128
    cost: str = "macs"
    generations: int = 30
    children: int = 30
    population: int = 20
    rows: int = 12
    final_rows: int = 128
    drop: float = 0.5
    seed: int = 0
    jobs: int = 2
    time_budget: float | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        least = {"sequence_length": 2, "generations": 0, "children": 1, "population": 2, "jobs": 1}
        for name, low in (*least.items(), ("rows", 1), ("final_rows", 1)):
            if getattr(self, name) < low:
                raise InvalidOptionError(name, getattr(self, name), f"{low} or more")
        if not 0 < self.drop < 1:
            raise InvalidOptionError("drop", self.drop, "more than 0 and less than 1")
        if self.cost not in COSTS:
            raise InvalidOptionError("cost", self.cost, " or ".join(map(repr, COSTS)))
        if self.time_budget is not None and not self.time_budget > 0:
            raise InvalidOptionError("time_budget", self.time_budget, "seconds, more than 0")
