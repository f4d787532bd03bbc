"""TensorRT and TensorRT-RTX as backends: they run what `ldmpir-edge compile` compiled.

Compiling takes minutes, which no scan should wait for: an engine that is not there is an error
that names the command, and the next backend serves meanwhile.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ldmpir_edge.bundle import BuildRecipe, LoadedVariant
from ldmpir_edge.errors import BackendError
from ldmpir_edge.runtimes.base import Availability, Backend, Engine
from ldmpir_edge.runtimes.tensorrt.cache import EngineCache, engine_name
from ldmpir_edge.runtimes.tensorrt.cuda import import_cuda
from ldmpir_edge.runtimes.tensorrt.engine import TensorRtEngine
from ldmpir_edge.runtimes.tensorrt.hardware import Gpu, find_gpu, why_no_gpu
from ldmpir_edge.runtimes.tensorrt.profiles import Profile, make_profile


class TensorRtFamily(Backend):
    """What both libraries share.

    Attributes
    ----------
    compiles_kernels_late
        Whether the library compiles kernels on the device when they are first needed, which is
        worth keeping.
    """

    runs_graphs = False  # only engines, which are compiled before
    compiles_kernels_late: ClassVar[bool]

    def availability(self) -> Availability:
        """Answer whether the backend can run here; without a GPU nothing is imported."""
        if reason := why_no_gpu():
            return Availability(False, reason, "", (), "")
        return super().availability()

    def load(self, variant: LoadedVariant, threads: int | None = None) -> Engine:
        """Load the engine that was compiled for this variant and device.

        Raises
        ------
        MissingExtraError
            The library is not installed.
        BackendError
            There is no GPU, the library is broken, or the engine is not compiled yet.
        """
        if reason := why_no_gpu():
            raise BackendError(f"{self.name} cannot run: {reason}; use another --backend")
        if not EngineCache().holds_any(variant, self.name):
            raise self._not_compiled(variant)
        return super().load(variant, threads)

    def open(self) -> tuple[Any, Any, Gpu]:
        """Import the library and CUDA, and find the device.

        Raises
        ------
        MissingExtraError
            One is not installed.
        BackendError
            One is broken, or there is no GPU.
        """
        if reason := why_no_gpu():
            raise BackendError(f"{self.name} cannot run: {reason}")
        library, cuda = self._import(), import_cuda()
        return library, cuda, find_gpu(cuda)

    def _devices(self, library: Any) -> tuple[str, ...]:
        gpu = find_gpu(import_cuda())
        return (f"{gpu.name} (compute capability {gpu.compute_capability}, {gpu.driver})",)

    def _load(self, library: Any, variant: LoadedVariant, threads: int | None) -> Engine:
        cuda = import_cuda()
        cache = EngineCache()
        name = engine_name(
            variant, self.name, library.__version__, find_gpu(cuda), profile_of(variant)
        )
        plan = cache.get(name)
        if plan is None:
            raise self._not_compiled(variant)
        if not self.compiles_kernels_late:
            return TensorRtEngine(self.name, variant, library, cuda, plan)
        kernels = f"{name}-kernels"
        return TensorRtEngine(
            self.name,
            variant,
            library,
            cuda,
            plan,
            cache.get(kernels) or b"",
            lambda data: cache.put(kernels, data),
        )

    def _not_compiled(self, variant: LoadedVariant) -> BackendError:
        return BackendError(
            f"{self.name} has no engine of {variant.family}, {variant.n_steps} steps, "
            f"{variant.precision} for this GPU; run `ldmpir-edge compile BUNDLE --backend "
            f"{self.name} --precision {variant.precision} --steps {variant.n_steps}` first"
        )


class TensorRtBackend(TensorRtFamily):
    """The `tensorrt` package: of a Jetson's JetPack, or from PyPI."""

    name = "tensorrt"
    extra = None
    compiles_kernels_late = False

    def _import(self) -> Any:
        try:
            return super()._import()
        except BackendError as err:
            if isinstance(err.__cause__, ModuleNotFoundError):
                raise BackendError(
                    "not installed; a Jetson's comes with JetPack, for a virtual environment made "
                    "with --system-site-packages"
                ) from err
            raise


class TensorRtRtxBackend(TensorRtFamily):
    """The `tensorrt_rtx` package: for GeForce and RTX cards; compiles without one, too."""

    name = "tensorrt_rtx"
    extra = "tensorrt"
    compiles_kernels_late = True


def profile_of(variant: LoadedVariant) -> Profile:
    """Answer the shapes that an engine of a bundle's variant is compiled for.

    Raises
    ------
    BackendError
        The variant is not from a bundle, which alone says what sizes it takes.
    """
    if variant.limits is None:
        raise BackendError(f"{variant.graph.name} is of no bundle: no engine can be compiled of it")
    recipe = variant.recipe or BuildRecipe()
    return make_profile(variant, variant.limits, recipe.typical)
