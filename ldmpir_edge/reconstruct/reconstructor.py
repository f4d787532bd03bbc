"""The reconstructor: one bundle, loaded once, run on any number of scans."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import ldmpir_edge
from ldmpir_edge.bundle import Bundle, open_bundle
from ldmpir_edge.bundle.schema import Precision, SizeLimits
from ldmpir_edge.errors import BackendError, LdmpirError, UnsupportedSizeError, UsageError
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import Family, Problem, Task
from ldmpir_edge.reconstruct.checks import choose_image
from ldmpir_edge.reconstruct.overlap import overlap
from ldmpir_edge.reconstruct.samples import deviation, opening_noise, with_detail
from ldmpir_edge.reconstruct.slices import (
    Comparison,
    FinishedSlice,
    PreparedSlice,
    least_grid,
    likely_family,
    output_info,
    output_shape,
    prepare_slice,
    resolve_factor,
    resolve_task,
)
from ldmpir_edge.runtimes import SelectedEngine, get_backend, load_engine
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.model import Scan
from ldmpir_edge.scans.reconstruction import (
    Provenance,
    ReconstructedSlice,
    Reconstruction,
    VolumeHeader,
)

DEFAULT_BUNDLE = "ldmpir-2m"
NO_ENGINE = "none"
"""Stands for the engine of a slice that none was asked for."""

Withhold = Callable[[int], str | None]
Observe = Callable[[FinishedSlice], None]


@dataclass(frozen=True)
class _Answer:
    """`(2, H, W)` engine planes, or None and the failure, and the backend that was asked."""

    planes: NDArray[np.float32] | None = field(repr=False)
    backend: str
    failure: str | None = None
    deviation: NDArray[np.float32] | None = field(default=None, repr=False)


class Reconstructor:
    """Reconstruct scans with one bundle.

    Parameters
    ----------
    bundle
        An opened bundle.
    backend
        Name of the engine; None chooses.
    precision
        `fp32`, `fp16` or `int8`; None takes fp32, or the only one there is.
    n_steps
        Sampler steps; None takes the bundle's default.
    threads
        CPU threads of an inference; None leaves it to the engine.

    Raises
    ------
    BundleError
        The bundle lacks the precision or the number of steps.
    UsageError
        There is no backend of that name.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: str | None = None,
        precision: Precision | None = None,
        n_steps: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.bundle = bundle
        manifest = bundle.manifest
        self.precision: Precision = precision or manifest.default_precision
        self.n_steps = n_steps or manifest.sampler.default_n_steps
        manifest.variant(manifest.families[0].name, self.n_steps, self.precision)
        if backend is not None:
            get_backend(backend)
        self._requested, self._threads = backend, threads
        self._engines: dict[Family, SelectedEngine] = {}
        self._in_use: SelectedEngine | None = None
        self.seconds: dict[str, float] = defaultdict(float)
        self.comparison: Comparison | None = None

    @property
    def backend(self) -> str:
        """Name of the engine in use, or an empty string before the first slice."""
        return self._in_use.backend if self._in_use else ""

    @property
    def reason(self) -> str:
        """Why it is this engine."""
        return self._in_use.reason if self._in_use else ""

    @property
    def limits(self) -> SizeLimits:
        """The sizes of scans that it takes."""
        return self.bundle.manifest.limits

    def close(self) -> None:
        """Free the engines."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
        self._in_use = None

    def __call__(
        self,
        scan: Path | str | Sequence[Path | str] | Scan,
        *,
        task: Task | None = None,
        factor: int | None = None,
        seed: int | None = None,
        on_slice: Callable[[int, int], None] | None = None,
    ) -> Reconstruction:
        """Reconstruct all slices of a scan into memory; `stream` takes no more than a few at once.

        Parameters
        ----------
        scan
            A path, several files of one DICOM series, or an open scan.
        task
            For image input: `denoise` (default), `inpaint` (missing pixels are NaN) or
            `super-resolve`.
        factor
            Of super-resolution, 2 (default) or 4: as many times as many rows and columns.
        seed
            Draws one sample of the bridge; None gives the deterministic mean.
        on_slice
            Called with (slices done, slices in all).

        Returns
        -------
            `image` is `(slices, H, W)` float32: MR magnitude on the scale of the input's
            root-sum-of-squares image, HU for CT, the input's unit for images. A slice whose
            checks failed holds the classical image, and its `checks` say why.

        Raises
        ------
        ScanError, UnsupportedSizeError, BundleError, BackendError, UsageError
            As their names say.
        """
        if not isinstance(scan, Scan):
            with open_scan(scan) as opened:
                return self(opened, task=task, factor=factor, seed=seed, on_slice=on_slice)
        header = self.header(scan, task=task, factor=factor)
        pieces: list[ReconstructedSlice] = []
        with closing(self.stream(scan, task=task, factor=factor, seed=seed)) as stream:
            for piece in stream:
                pieces.append(piece)
                if on_slice is not None:
                    on_slice(len(pieces), header.n_slices)
        return Reconstruction(
            image=np.stack([piece.image for piece in pieces]),
            info=header.info,
            stem=header.stem,
            provenance=pieces[-1].provenance,
            checks=[piece.checks for piece in pieces],
            notes=tuple(dict.fromkeys(note for piece in pieces for note in piece.notes)),
            input_files=header.input_files,
        )

    def header(
        self, scan: Scan, *, task: Task | None = None, factor: int | None = None
    ) -> VolumeHeader:
        """Describe the volume that `stream` will give, before anything is read or prepared.

        Raises
        ------
        UsageError
            The task does not go with the kind of scan, or the factor not with the task.
        UnsupportedSizeError
            The scan is larger or smaller than the bundle takes.
        """
        resolved = resolve_task(scan, task)
        try:
            self.limits.check(*least_grid(scan, resolved, factor))
        except UnsupportedSizeError as err:
            if (finer := resolve_factor(resolved, factor)) == 1:
                raise
            raise UnsupportedSizeError(f"enlarged by {finer}, {err}") from err
        return VolumeHeader(
            shape=(scan.n_slices, *output_shape(scan, resolved, factor)),
            info=output_info(scan.info, resolved, factor),
            stem=_stem(scan.path),
            input_files=scan.files,
        )

    def stream(
        self,
        scan: Scan,
        *,
        task: Task | None = None,
        factor: int | None = None,
        seed: int | None = None,
        withhold: Withhold | None = None,
        slices: Sequence[int] | None = None,
        n_samples: int = 0,
        observe: Observe | None = None,
    ) -> Generator[ReconstructedSlice, None, None]:
        """Reconstruct an open scan slice by slice, in order; memory does not grow with the slices.

        While the engine runs in the caller's thread, another reads and prepares the slice after
        and checks the one before: see `overlap`, also for what holds until the generator is
        closed. Close it (`contextlib.closing`) before the scan.

        Parameters
        ----------
        scan, task, factor, seed
            As for a call.
        withhold
            Asked before the engine gets a slice, by its index: a reason, or None. With a reason
            the slice is delivered as the classical image, and says so.
        slices
            Which, in this order; None takes all.
        n_samples
            Samples of the bridge, with seeds from 0, that are drawn for each slice's `deviation`:
            none, or at least two.
        observe
            Shown each slice before it is yielded, in the thread that prepares and checks.

        Yields
        ------
            Slices as the call's, each with its own checks and notes.

        Raises
        ------
        UsageError, UnsupportedSizeError
            At once, as `header`; or samples that cannot differ are asked for.
        ScanError, UnsupportedSizeError, BundleError, BackendError
            While iterating, of the slice that is the cause.
        """
        self.header(scan, task=task, factor=factor)
        if n_samples and (n_samples < 2 or self.n_steps < 2):
            raise UsageError(
                f"{n_samples} samples of {self.n_steps} steps have no spread; ask for at least two "
                "of at least two"
            )
        order = range(scan.n_slices) if slices is None else slices
        resolved = resolve_task(scan, task)
        return self._slices(
            scan, order, resolved, factor, seed, withhold or _never, n_samples, observe
        )

    def engine(self, family: Family) -> SelectedEngine:
        """Give the engine that serves a family of problems, loaded when first asked for.

        Raises
        ------
        BundleError
            The bundle does not hold the family.
        BackendError, MissingExtraError
            No backend could load it.
        """
        if family not in self._engines:
            variant = self.bundle.extract(family, self.n_steps, self.precision)
            self._engines[family] = load_engine(variant, self._requested, self._threads)
        return self._engines[family]

    def _slices(
        self,
        scan: Scan,
        order: Sequence[int],
        task: Task,
        factor: int | None,
        seed: int | None,
        withhold: Withhold,
        n_samples: int,
        observe: Observe | None,
    ) -> Generator[ReconstructedSlice, None, None]:
        self.seconds.clear()
        created = datetime.now(UTC)

        def prepare(index: int) -> PreparedSlice:
            with self._timed("prepare"):
                prepared = prepare_slice(scan, index, task, factor)
            self._check_limits(prepared)
            return prepared

        def run(index: int, prepared: PreparedSlice) -> _Answer:
            if (reason := withhold(index)) is not None:
                return _Answer(None, NO_ENGINE, reason)
            answer = self._run(prepared, seed, index)
            if n_samples and answer.planes is not None:
                spread = self._spread(prepared, index, n_samples)
                uncertain = with_detail(spread, prepared.to_scan(answer.planes))
                return replace(answer, deviation=uncertain)
            return answer

        def finish(index: int, prepared: PreparedSlice, answer: _Answer) -> ReconstructedSlice:
            with self._timed("check"):
                planes, checks = choose_image(prepared.problem, answer.planes, answer.failure)
                image = prepared.to_scan(planes)
            if index == scan.n_slices // 2:
                self.comparison = Comparison(
                    prepared.to_scan(prepared.unreconstructed), image, scan.reference(index)
                )
            made = self._provenance(scan, task, factor, seed, created, answer.backend)
            piece = ReconstructedSlice(index, image, made, checks, self._notes(prepared))
            if observe is not None:
                with self._timed("report"):
                    observe(FinishedSlice(prepared, planes, piece, answer.deviation))
            return piece

        def warm_up() -> None:
            # Only to save time: what cannot be read or loaded is said when it is needed.
            with suppress(OSError):
                _ = scan.content_sha256
            if withhold(order[0]) is None:
                with suppress(LdmpirError), self._timed("load"):
                    self.engine(likely_family(scan, task))

        yield from overlap(order, prepare, run, finish, warm_up)

    def _run(self, prepared: PreparedSlice, seed: int | None, index: int) -> _Answer:
        problem = prepared.problem
        with self._timed("load"):
            if self._in_use is None or not prepared.blank:
                self._in_use = self.engine(problem.family)
        engine = self._in_use
        if prepared.blank:
            return _Answer(problem.x1, engine.backend)
        with self._timed("engine"):
            try:
                planes = engine.run(self._inputs(problem, seed, index))["image"][0]
            except BackendError as err:
                return _Answer(None, engine.backend, str(err))
        return _Answer(planes, engine.backend)

    def _spread(self, prepared: PreparedSlice, index: int, n_samples: int) -> NDArray[np.float32]:
        engine, problem = self.engine(prepared.problem.family), prepared.problem
        shape = (self.n_steps - 1, *problem.b.shape)
        with self._timed("samples"):
            return deviation(
                prepared.to_scan(
                    engine.run(
                        engine_arrays(problem, self.n_steps, opening_noise(seed, index, shape))
                    )["image"][0]
                )
                for seed in range(n_samples)
            )

    def _provenance(
        self,
        scan: Scan,
        task: Task,
        factor: int | None,
        seed: int | None,
        created: datetime,
        backend: str,
    ) -> Provenance:
        return Provenance(
            input_sha256=scan.content_sha256,
            bundle_name=self.bundle.manifest.model.id,
            bundle_sha256=self.bundle.digest,
            precision=self.precision,
            backend=backend,
            n_steps=self.n_steps,
            task=task,
            factor=resolve_factor(task, factor),
            software_version=ldmpir_edge.__version__,
            created=created,
            seed=seed,
        )

    def _notes(self, prepared: PreparedSlice) -> tuple[str, ...]:
        if self.bundle.manifest.verified:
            return prepared.notes
        return (
            *prepared.notes,
            "the bundle was exported without its gate: it is not verified",
        )

    def _check_limits(self, prepared: PreparedSlice) -> None:
        _, height, width = prepared.problem.b.shape
        self.limits.check(height, width, prepared.n_coils, prepared.n_views)

    def _inputs(
        self, problem: Problem, seed: int | None, index: int
    ) -> dict[str, NDArray[np.generic]]:
        noise = None
        if seed is not None and self.n_steps > 1:
            draws = np.random.default_rng([seed, index])
            noise = draws.standard_normal((self.n_steps - 1, *problem.b.shape), np.float32)
        return engine_arrays(problem, self.n_steps, noise)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Add the time of a block to `seconds[stage]`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started


def _never(_: int) -> None:
    """Withhold no slice from the engine."""


def load(
    name_or_path: str | Path = DEFAULT_BUNDLE,
    *,
    backend: str | None = None,
    precision: Precision | None = None,
    n_steps: int | None = None,
    threads: int | None = None,
) -> Reconstructor:
    """Open a bundle, by the name of a packaged one or by path, for reconstruction.

    Raises
    ------
    BundleError
        There is no such bundle, it was tampered with, or lacks what was asked for.
    """
    if n_steps is not None and n_steps < 1:
        raise UsageError(f"the sampler needs at least one step, not {n_steps}")
    return Reconstructor(
        open_bundle(name_or_path),
        backend=backend,
        precision=precision,
        n_steps=n_steps,
        threads=threads,
    )


def _stem(path: Path) -> str:
    name = path.resolve().name
    for suffix in (".nii.gz", *path.suffixes[-1:]):
        if name.endswith(suffix) and name != suffix and not path.is_dir():
            return name[: -len(suffix)]
    return name
