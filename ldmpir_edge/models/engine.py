"""The unrolled sampler as one module of plain tensors: what is traced, and the reference."""

from __future__ import annotations

from torch import Tensor, nn

from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.models.sampler import sample
from ldmpir_edge.physics.normal import TABLES
from ldmpir_edge.physics.problem import Family


def engine_inputs(family: Family, n_steps: int) -> tuple[str, ...]:
    """Name the inputs of an engine, in the order of `EngineModule.forward`."""
    noise = ("noise",) if n_steps > 1 else ()
    return ("b", "x1", "noise_level", "condition", *noise, *TABLES[family])


class EngineModule(nn.Module):
    """A model with its family and number of steps fixed.

    Parameters
    ----------
    model
        Trained model.
    family, n_steps
        Fixed at export; one step takes no `noise`.
    """

    def __init__(self, model: LdmPir, family: Family, n_steps: int) -> None:
        super().__init__()
        self.model = model
        self.family: Family = family
        self.n_steps = n_steps

    def forward(self, *tensors: Tensor) -> Tensor:
        """Map the tensors that `engine_inputs` names to `(B, 2, H, W)`."""
        given = dict(zip(engine_inputs(self.family, self.n_steps), tensors, strict=True))
        return sample(
            self.model,
            given["x1"],
            given["b"],
            given["noise_level"],
            given["condition"],
            self.family,
            {name: given[name] for name in TABLES[self.family]},
            self.n_steps,
            given.get("noise"),
        )
