"""The fine-tuning loop: updates, looks at the held-out measurements, checkpoints."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldmpir_edge.errors import ScanDataError
from ldmpir_edge.export.gate import reference_image
from ldmpir_edge.finetuning.losses import equivariant_loss, split_loss, supervised_loss
from ldmpir_edge.finetuning.measured import (
    N_FOLDS,
    DividedSlice,
    HeldOut,
    MeasuredSlice,
    Parts,
    Planes,
    folds,
)
from ldmpir_edge.finetuning.noisy_image import NoisyImage
from ldmpir_edge.finetuning.parameters import choose_parameters, merge_updates
from ldmpir_edge.finetuning.progress import Progress, read_progress
from ldmpir_edge.finetuning.recipe import FinetuneRecipe
from ldmpir_edge.finetuning.scans import SiteScans, SiteSlice
from ldmpir_edge.finetuning.supervision import reference_planes
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.physics.problem import Problem
from ldmpir_edge.training.checkpoint import write_checkpoint
from ldmpir_edge.training.loop import decay

WARMUP = 10
GRADIENT_CLIP = 1.0
AVERAGE_DECAY = 0.95
LEAST_SIGNAL = 0.02
"""Held-out errors of the base that are noise but for this share of it say nothing."""
HELD_OUT_IMAGE = 0.2
"""Share of the images that no update sees, where images have no parts to keep back."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Parameters
    ----------
    model
        The fine-tuned one, or the base's weights where nothing was gained.
    improved
        Whether the held-out error fell by the recipe's margin.
    held_out
        Held-out error, its noise taken off, of the best look relative to the base's; 1 where no
        look was better.
    n_updates
        Updates behind `model`; 0 for the base.
    """

    model: LdmPir
    improved: bool
    held_out: float
    n_updates: int


@dataclass(frozen=True)
class _Lesson:
    """A slice that updates see: its image (or reference), and the parts that may be split."""

    measured: MeasuredSlice
    planes: Planes
    usable: Parts | None


class Finetuner:
    """Fine-tune a base on a site's scans; the same call goes on from its checkpoint.

    Parameters
    ----------
    base
        Left as it is.
    scans
        The site's slices.
    recipe
        What to do.
    checkpoint
        The file to resume from, written at every look and on interruption.

    Raises
    ------
    UsageError
        The checkpoint is of another run or damaged.
    ScanDataError
        Too little is measured beside the centre to keep a part back, or what is kept back is
        noise.
    """

    def __init__(
        self, base: LdmPir, scans: SiteScans, recipe: FinetuneRecipe, checkpoint: Path
    ) -> None:
        self.recipe, self.checkpoint = recipe, checkpoint
        self._base = base
        self._model = copy.deepcopy(base)
        self._moving = choose_parameters(self._model, recipe.rank, recipe.seed)
        self._optimizer = torch.optim.Adam(list(self._moving.values()), lr=recipe.learning_rate)
        self._average = _copy(self._moving)
        self._best = _copy(self._moving)
        self.update, self.ratios = 0, list[float]()
        rng = np.random.default_rng([recipe.seed, 0])
        self._lessons, self._tests = self._divide(scans.slices, rng)
        self._before = [test.error(self._run(base)) for test in self._tests]
        self._telling = [
            k
            for k, test in enumerate(self._tests)
            if self._before[k] - test.noise > LEAST_SIGNAL * self._before[k]
        ]
        if not self._telling:
            raise ScanDataError(
                "what is kept back of the scans to judge by holds nothing but noise: no gain could "
                "be proven; use the base as it is, or give scans with more signal"
            )
        self._identity: dict[str, Any] = {
            "base": _digest(base),
            "scans": list(scans.digests),
            "recipe": recipe.model_dump(),
        }
        self._resume()

    @property
    def finished(self) -> bool:
        """Whether all updates are done, or the held-out error has stopped falling."""
        looks = len(self.ratios)
        best = self.ratios.index(min(self.ratios)) + 1 if looks else 0
        return self.update >= self.recipe.n_updates or looks - best >= self.recipe.patience

    def run(self, on_update: Callable[[int, float | None], None]) -> Outcome:
        """Go on to the end.

        Parameters
        ----------
        on_update
            Called with the updates done and the latest held-out error relative to the base's,
            None before the first look.

        Raises
        ------
        OutputError
            The checkpoint cannot be written. A `KeyboardInterrupt` passes after one was.
        """
        try:
            while not self.finished:
                self._step()
                if self.update % self.recipe.check_every == 0 or (
                    self.update == self.recipe.n_updates
                ):
                    self._look()
                    self._write()
                on_update(self.update, self.ratios[-1] if self.ratios else None)
        except KeyboardInterrupt:
            self._write()
            raise
        held_out = min(self.ratios, default=1.0)
        improved = held_out <= 1 - self.recipe.margin
        if not improved:
            return Outcome(copy.deepcopy(self._base), False, min(held_out, 1.0), 0)
        model = self._with(self._best)
        merge_updates(model)
        looks = self.ratios.index(held_out) + 1
        n_updates = min(looks * self.recipe.check_every, self.recipe.n_updates)
        return Outcome(model.eval(), True, held_out, n_updates)

    def _divide(
        self, slices: tuple[SiteSlice, ...], rng: np.random.Generator
    ) -> tuple[list[_Lesson], list[HeldOut]]:
        lessons: list[_Lesson] = []
        tests: list[HeldOut] = []
        images = [k for k, entry in enumerate(slices) if isinstance(entry.measured, NoisyImage)]
        n_spared = math.ceil(HELD_OUT_IMAGE * len(images))
        spared = set(rng.choice(images, n_spared, replace=False)) if images else set()
        for k, entry in enumerate(slices):
            measured = entry.measured
            if isinstance(measured, NoisyImage):
                if k in spared:
                    tests.append(measured.held_out(rng))
                    continue
                lessons.append(self._lesson(entry, measured.problem, None))
            elif isinstance(measured, DividedSlice):
                if measured.n_parts < N_FOLDS:
                    raise ScanDataError(
                        f"only {measured.n_parts} lines or views lie outside the centre; "
                        f"fine-tuning keeps one in {N_FOLDS} back to judge by: give scans with more"
                    )
                kept_back = folds(measured.n_parts, N_FOLDS, rng)[0]
                seen = measured.shown(~kept_back)
                tests.append(measured.prediction(kept_back, seen))
                lessons.append(self._lesson(entry, seen, ~kept_back))
        return lessons, tests

    def _lesson(self, entry: SiteSlice, seen: Problem, usable: Parts | None) -> _Lesson:
        """Give what updates may know of a slice: never the parts that are kept back."""
        image = reference_image(self._base, seen, self.recipe.n_steps)
        measured = entry.measured
        planes = image * np.float32(seen.scale / measured.problem.scale)
        if self.recipe.loss == "supervised":
            planes = reference_planes(entry, planes)
        return _Lesson(measured, planes, usable)

    def _step(self) -> None:
        recipe = self.recipe
        # Draws are tied to the update, so that a resumed run repeats them.
        rng = np.random.default_rng([recipe.seed, 1, self.update])
        lesson = self._lessons[int(rng.integers(len(self._lessons)))]
        loss = self._loss(lesson, rng)
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.learning_rate * self._share()
        moving = list(self._moving.values())
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(moving, GRADIENT_CLIP)
        if torch.isfinite(norm):
            self._optimizer.step()
        self.update += 1
        decay = min(AVERAGE_DECAY, self.update / (9 + self.update))
        with torch.no_grad():
            for name, parameter in self._moving.items():
                self._average[name].lerp_(parameter, 1 - decay)

    def _loss(self, lesson: _Lesson, rng: np.random.Generator) -> Tensor:
        model, measured, n_steps = self._model, lesson.measured, self.recipe.n_steps
        if self.recipe.loss == "supervised":
            return supervised_loss(model, measured, lesson.planes, n_steps, rng)
        if (
            self.recipe.loss == "split"
            and isinstance(measured, DividedSlice)
            and lesson.usable is not None
        ):
            return split_loss(model, measured, lesson.usable, n_steps, rng)
        return equivariant_loss(model, measured, lesson.planes, n_steps, rng)

    def _share(self) -> float:
        if self.update < WARMUP:
            return (self.update + 1) / WARMUP
        return decay(self.update / self.recipe.n_updates)

    def _look(self) -> None:
        model = self._with(self._average)
        run = self._run(model)
        ratios = [
            (self._tests[k].error(run) - self._tests[k].noise)
            / (self._before[k] - self._tests[k].noise)
            for k in self._telling
        ]
        ratio = float(np.mean(ratios))
        if math.isfinite(ratio) and ratio < min(self.ratios, default=1.0):
            self._best = _copy(self._average)
        self.ratios.append(ratio if math.isfinite(ratio) else math.inf)

    def _run(self, model: LdmPir) -> Callable[[Problem], Planes]:
        return lambda problem: reference_image(model, problem, self.recipe.n_steps)

    def _with(self, weights: dict[str, Tensor]) -> LdmPir:
        model = copy.deepcopy(self._model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in weights:
                    parameter.copy_(weights[name])
        return model

    def _write(self) -> None:
        write_checkpoint(
            self.checkpoint,
            Progress(
                identity=self._identity,
                update=self.update,
                weights=_copy(self._moving),
                average=self._average,
                best=self._best,
                ratios=self.ratios,
                optimizer=self._optimizer.state_dict(),
            ),
        )

    def _resume(self) -> None:
        progress = read_progress(self.checkpoint, self._identity)
        if progress is None:
            return
        self.update, self.ratios = progress["update"], progress["ratios"]
        self._average, self._best = progress["average"], progress["best"]
        self._optimizer.load_state_dict(progress["optimizer"])
        with torch.no_grad():
            for name, parameter in self._moving.items():
                parameter.copy_(progress["weights"][name])


def _copy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def _digest(model: LdmPir) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
