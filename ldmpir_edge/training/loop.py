"""The training loop: two stages, exponential moving average, checkpoints, a CSV log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ldmpir_edge.atomic import make_folder, output_errors
from ldmpir_edge.errors import UsageError
from ldmpir_edge.models.config import ModelConfig
from ldmpir_edge.models.ksm import normal_operator
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.models.sampler import bridge_state
from ldmpir_edge.models.unet import KERNEL_AXES
from ldmpir_edge.models.weights import load_weights, save_weights
from ldmpir_edge.training.checkpoint import (
    damaged_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from ldmpir_edge.training.dataset import SimulatedScans, TrainingItem, reconstruct
from ldmpir_edge.training.images import ImageStack
from ldmpir_edge.training.log import LogRow, append_row, cut_log
from ldmpir_edge.training.losses import image_loss, psnr
from ldmpir_edge.training.mixed_precision import Bf16LdmPir
from ldmpir_edge.training.muon import Muon
from ldmpir_edge.training.recipe import Recipe, Stage
from ldmpir_edge.training.validation import Validation

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
VALIDATION = "validation.csv"
WEIGHTS = "weights.safetensors"
EMA_WARMUP = 10
"""Early in a run the average follows the weights: its decay is (1 + n) / (EMA_WARMUP + n)."""


class Trainer:
    """Train one model in one folder; a second call in that folder goes on where it stopped.

    Parameters
    ----------
    config, recipe
        Architecture and recipe; a checkpoint of another one is refused.
    stacks
        Training images.
    folder
        Receives the checkpoint, the log and the averaged weights.
    n_workers
        Processes that simulate acquisitions.
    checkpoint_every
        Updates between checkpoints.
    initial
        Weights to start from in a new folder, of the same architecture; None starts from the
        recipe's seed.
    held_out
        Images that are not trained on: the averaged weights are measured on them at the start and
        at every checkpoint. None are needed.

    Raises
    ------
    UsageError
        The folder's checkpoint is damaged, or is of another architecture or recipe; or the
        initial weights are of another architecture.
    BundleError
        The initial weights cannot be read.
    OutputError
        The folder cannot be written.
    ScanDataError
        The held-out images can serve none of the recipe's tasks.
    """

    def __init__(
        self,
        config: ModelConfig,
        recipe: Recipe,
        stacks: Sequence[ImageStack],
        folder: Path,
        *,
        n_workers: int = 1,
        checkpoint_every: int = 100,
        initial: Path | None = None,
        held_out: Sequence[ImageStack] = (),
    ) -> None:
        self.recipe, self.stacks, self.folder = recipe, stacks, folder
        self.n_workers, self.checkpoint_every = n_workers, checkpoint_every
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = (Bf16LdmPir if recipe.bf16 else LdmPir)(config).train()
            self.average = LdmPir(config).eval()
        if initial is not None:
            start = load_weights(initial)
            if start.config != config:
                raise UsageError(
                    f"{initial} holds weights of another architecture than the recipe's: "
                    f"{start.config} instead of {config}"
                )
            self.model.load_state_dict(start.state_dict())
        self.average.load_state_dict(self.model.state_dict())
        kernels = [p for p in self.model.parameters() if p.ndim == KERNEL_AXES]
        others = [p for p in self.model.parameters() if p.ndim != KERNEL_AXES]
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (
            Muon(kernels, lr=1e-4),
            torch.optim.AdamW(others, lr=1e-4, weight_decay=1e-4),
        )
        self.update = 0
        self._n_threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._n_threads, thread_name_prefix="example")
        make_folder(folder)
        if (folder / CHECKPOINT).exists():
            self._resume()
        cut_log(folder / LOG, self.update)
        self._validation = Validation(held_out, recipe, folder / VALIDATION) if held_out else None
        if self._validation is not None:
            self._validation.cut(self.update)

    @property
    def n_updates(self) -> int:
        """Updates of all stages together."""
        return sum(stage.n_updates for stage in self.recipe.stages)

    def run(self, on_update: Callable[[LogRow], None]) -> Path:
        """Train to the end of the recipe and return the path of the averaged weights.

        Raises
        ------
        OutputError
            The log, the checkpoint or the weights cannot be written.
        ScanDataError
            The images do not serve the recipe.
        """
        done = 0
        if self.update == 0:
            self._validate()
        for number, stage in enumerate(self.recipe.stages):
            if self.update < done + stage.n_updates:
                self._run_stage(number, stage, done, on_update)
            done += stage.n_updates
        self._checkpoint()
        return self.folder / WEIGHTS

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of every parameter."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _run_stage(
        self, number: int, stage: Stage, first: int, on_update: Callable[[LogRow], None]
    ) -> None:
        n_left = first + stage.n_updates - self.update
        # The stage's own range of indices keeps examples apart without a record of the past.
        data = SimulatedScans(
            self.stacks,
            self.recipe,
            stage.size,
            (self.update - first) * stage.batch,
            n_left * stage.batch,
            stage.echo,
            offset=number * 10_000_000,
        )
        loader = iter(
            DataLoader(
                data,
                batch_size=None,
                num_workers=self.n_workers,
                prefetch_factor=4 if self.n_workers else None,
            )
        )
        for _ in range(n_left):
            started = time.perf_counter()
            batch = [next(loader) for _ in range(stage.batch)]
            waited = time.perf_counter() - started
            self.set_rate(learning_rate(stage, self.update - first))
            loss, x0_hat = self._step(stage, batch)
            self.update += 1
            last = batch[-1]
            row: LogRow = {
                "update": self.update,
                "stage": number,
                "task": last["task"],
                "family": last["family"],
                "loss": round(loss, 6),
                "psnr": round(psnr(x0_hat, last["target"]), 3),
                "psnr_x1": round(psnr(last["x1"], last["target"]), 3),
                "seconds": round(time.perf_counter() - started, 4),
                "waited": round(waited, 4),
            }
            append_row(self.folder / LOG, row)
            on_update(row)
            if self.update % self.checkpoint_every == 0:
                self._validate()
                self._checkpoint()

    def _step(self, stage: Stage, batch: Sequence[TrainingItem]) -> tuple[float, Tensor]:
        """Update the weights; return the loss and the last example's reconstruction."""
        # Examples side by side, each on its share of the cores: the many small operations of the
        # physics gain little from more. Half as many seconds an example on two cores.
        n_abreast = min(len(batch), self._n_threads)

        def work(k: int) -> tuple[float, Tensor, list[Tensor]]:
            if n_abreast > 1:
                torch.set_num_threads(self._n_threads // n_abreast)  # of this thread alone
            return self._gradients(stage, batch, k)

        if n_abreast > 1:
            done = list(self._pool.map(work, range(len(batch))))
        else:
            done = [work(k) for k in range(len(batch))]
        for parameter, *gradients in zip(
            self.model.parameters(), *(gradients for _, _, gradients in done), strict=True
        ):
            parameter.grad = torch.stack(gradients).mean(dim=0)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip)
        # One example that overflows must not destroy the weights of hours.
        if torch.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
            self._follow()
        return sum(loss for loss, _, _ in done) / len(done), done[-1][1]

    def _gradients(
        self, stage: Stage, batch: Sequence[TrainingItem], k: int
    ) -> tuple[float, Tensor, list[Tensor]]:
        """Return the loss of example k, its reconstruction and the gradients of the weights."""
        # Draws are tied to the update, not to the process, so that a resumed run repeats them.
        draws = torch.Generator().manual_seed(
            self.recipe.seed * 1_000_003 + self.update * len(batch) + k
        )
        x0_hat = self._predict(stage, batch[k], draws)
        target, x1, spots = batch[k]["target"], batch[k]["x1"], batch[k]["spots"]
        loss = image_loss(x0_hat, target, x1, self.recipe.ssim_weight, spots)
        gradients = torch.autograd.grad(
            loss, list(self.model.parameters()), allow_unused=True, materialize_grads=True
        )
        return loss.item(), x0_hat.detach(), list(gradients)

    def _predict(self, stage: Stage, item: TrainingItem, draws: torch.Generator) -> Tensor:
        if stage.n_steps:
            choice = int(torch.randint(len(stage.n_steps), (), generator=draws))
            return reconstruct(self.model, item, stage.n_steps[choice])
        x1, b, family, tables = item["x1"], item["b"], item["family"], item["tables"]
        level, condition = item["noise_level"], item["condition"]
        # Times as the sampler meets them: evenly in their logarithm.
        t = self.model.config.t_last ** torch.rand((), generator=draws)
        noise = torch.randn(x1.shape, generator=draws)
        target, sigma = item["target"], self.model.config.sigma_bridge
        x_t = bridge_state(target, x1, t, sigma, noise)
        mean = bridge_state(target, x1, t, 0.0, noise)
        residual = b - normal_operator(family, tables)(mean)
        predicted: Tensor
        n_cg = self.model.config.n_cg
        predicted, _ = self.model(x_t, t, x1, b, level, condition, family, tables, residual, n_cg)
        return predicted

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(self.recipe.ema_decay, (1 + self.update) / (EMA_WARMUP + self.update))
        for slow, fast in zip(self.average.parameters(), self.model.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)

    def _validate(self) -> None:
        if self._validation is not None:
            self._validation.look(self.average, self.update)

    def _checkpoint(self) -> None:
        write_checkpoint(
            self.folder / CHECKPOINT,
            {
                "config": self.model.config.model_dump(),
                "recipe": self.recipe.model_dump(),
                "update": self.update,
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            },
        )
        with output_errors(self.folder / WEIGHTS):
            save_weights(self.average, self.folder / WEIGHTS)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        state = read_checkpoint(path)
        try:
            if ModelConfig(**state["config"]) != self.model.config:
                raise UsageError(
                    f"{path} was trained with another architecture; choose a new folder"
                )
            if Recipe(**state["recipe"]) != self.recipe:
                raise UsageError(f"{path} was trained with another recipe; choose a new folder")
            if state["update"] not in range(self.n_updates + 1):
                raise ValueError(f"it stands at update {state['update']} of {self.n_updates}")
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            for optimizer, its_state in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(its_state)
            self.update = state["update"]
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as err:
            raise damaged_checkpoint(path, err) from err


def learning_rate(stage: Stage, update: int) -> float:
    """Return the rate of an update: linear warm-up, then a cosine from the peak to its tenth."""
    if update < stage.warmup:
        return stage.learning_rate * (update + 1) / stage.warmup
    progress = (update - stage.warmup) / max(1, stage.n_updates - stage.warmup)
    return stage.learning_rate * decay(progress)


def decay(progress: float) -> float:
    """Return the share of the peak rate that is left: a cosine from 1 at 0 to a tenth at 1."""
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))
