"""The contract of an inference backend: what it answers about itself and how its engines run.

The public methods check; a backend writes only `_devices`, `_load` and its engine's `_run`, in
which the library's exceptions may pass: the shell turns them into `BackendError`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.bundle import LoadedVariant, Precision, TensorSpec
from ldmpir_edge.bundle.dims import bind_dims
from ldmpir_edge.errors import (
    BackendError,
    LdmpirError,
    MissingExtraError,
    ScanDataError,
    ShapeError,
    UsageError,
)

Arrays = dict[str, NDArray[Any]]
_MAX_REASON = 400


@dataclass(frozen=True)
class Availability:
    """Whether a backend can run here.

    `reason` says why not (empty when it can); `devices` are in the library's own words;
    `install_command` is the one command that brings it, empty where the machine lacks the hardware
    and no command helps.
    """

    ok: bool
    reason: str
    version: str
    devices: tuple[str, ...]
    install_command: str


class Engine(ABC):
    """A loaded variant, used as a context manager; not to be shared between threads.

    Parameters
    ----------
    backend
        Name of the backend, for messages.
    variant
        States the tensors that `run` takes and gives.
    """

    def __init__(self, backend: str, variant: LoadedVariant) -> None:
        self.backend = backend
        self.variant = variant

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Free the memory that the engine holds; it cannot run afterwards."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Reconstruct.

        Parameters
        ----------
        inputs
            By name, of the dtypes and symbolic shapes of the variant's inputs. What it has no
            input for is left out: bundles up to 0.9.0 take fewer tables of a problem.

        Returns
        -------
            The variant's outputs by name; every value is finite.

        Raises
        ------
        UsageError
            An input is missing or of another dtype.
        ShapeError
            A rank differs or the inputs' dimensions contradict each other.
        ScanDataError
            The output is not finite because an input is not.
        BackendError
            The engine failed, or its output has a wrong name, dtype or shape, or NaN.
        """
        taken = {spec.name for spec in self.variant.inputs}
        inputs = {name: array for name, array in inputs.items() if name in taken}
        bound = self._check_inputs(inputs)
        outputs = self.compute(inputs)
        self._check_outputs(outputs, bound, inputs)
        return outputs

    def compute(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run the graph without a look at what goes in and comes out, to find what is wrong.

        Raises
        ------
        BackendError
            The engine failed.
        """
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        try:
            return self._run(arrays)
        except LdmpirError:
            raise
        except Exception as err:
            raise self._failed(f"failed: {one_line(err)}") from err

    @abstractmethod
    def _run(self, inputs: Arrays) -> Arrays:
        """Compute the outputs from checked, C-contiguous inputs."""

    def _check_inputs(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        specs = {spec.name: spec for spec in self.variant.inputs}
        if missing := sorted(specs.keys() - inputs.keys()):
            raise UsageError(f"the engine also needs {missing}; it takes {sorted(specs)}")
        bound = {"n_steps": self.variant.n_steps}
        for name, spec in specs.items():
            if inputs[name].dtype != spec.dtype:
                raise UsageError(
                    f"'{name}' is {inputs[name].dtype}; the engine takes {spec.dtype}: convert it"
                )
            bind_dims(name, spec.shape, inputs[name].shape, bound)
        return bound

    def _check_outputs(
        self, outputs: Arrays, bound: dict[str, int], inputs: Mapping[str, NDArray[Any]]
    ) -> None:
        specs = {spec.name: spec for spec in self.variant.outputs}
        if outputs.keys() != specs.keys():
            raise self._failed(f"gave {sorted(outputs)} in place of {sorted(specs)}")
        for name, spec in specs.items():
            self._check_form(spec, outputs[name], bound)
            if not np.isfinite(outputs[name]).all():
                # Looked for only now: a healthy run need not scan its inputs.
                for source, array in inputs.items():
                    if not np.isfinite(array).all():
                        raise ScanDataError(
                            f"'{source}' holds NaN or infinity, so the image would too; "
                            "check the scan's raw values"
                        )
                raise self._failed(f"gave NaN or infinity in '{name}'")

    def _check_form(self, spec: TensorSpec, array: NDArray[Any], bound: dict[str, int]) -> None:
        if array.dtype != spec.dtype:
            raise self._failed(f"gave '{spec.name}' as {array.dtype}, not {spec.dtype}")
        try:
            bind_dims(spec.name, spec.shape, array.shape, bound)
        except ShapeError as err:
            raise self._failed(f"gave a wrong shape: {err}") from err

    def _failed(self, what: str) -> BackendError:
        return BackendError(
            f"{self.backend} {what} ({self.variant.family}, {self.variant.n_steps} steps, "
            f"{self.variant.precision}); try another --backend, or --precision fp32"
        )


class Backend(ABC):
    """One inference library behind the contract.

    Attributes
    ----------
    name
        What `--backend` calls it: the module to import, and after a colon the device, where one
        was named.
    extra
        The extra of ldmpir-edge that brings it; None where the bare package does.
    runs_graphs
        Whether it computes a variant's graph; the PyTorch reference has code of its own.
    """

    name: str
    extra: ClassVar[str | None]
    runs_graphs: ClassVar[bool] = True

    @property
    def module(self) -> str:
        """The module to import."""
        return self.name.partition(":")[0]

    @property
    def device(self) -> str:
        """The device that was named; empty where the choice is the backend's."""
        return self.name.partition(":")[2]

    def on(self, device: str) -> Backend:
        """Answer this backend on a device that the user names, whether or not it is here.

        Raises
        ------
        UsageError
            The backend knows no device of that name.
        """
        raise UsageError(
            f"{self.name} takes no device, but {device!r} was given: use --backend {self.name}"
        )

    def choices(self) -> tuple[Backend, ...]:
        """Answer what to try in turn where no device was named: it on one device, and another."""
        return (self,)

    @property
    def install_command(self) -> str:
        """The one command that brings the library."""
        target = f"'ldmpir-edge[{self.extra}]'" if self.extra else self.module
        return f"pip install {target}"

    def availability(self) -> Availability:
        """Answer whether the backend can run here; a broken library is a reason, not an error."""
        try:
            library = self._import()
            devices = self._devices(library)
        except MissingExtraError:
            return Availability(False, "not installed", "", (), self.install_command)
        except Exception as err:  # noqa: BLE001 - whatever breaks a library, doctor must say it
            return Availability(False, one_line(err), "", (), self.install_command)
        return Availability(True, "", str(library.__version__), devices, self.install_command)

    def takes(self, precision: Precision) -> bool:
        """Answer whether variants of that precision are meant for this backend."""
        return True

    def load(self, variant: LoadedVariant, threads: int | None = None) -> Engine:
        """Build an engine.

        Parameters
        ----------
        variant
            Graph and weights on disk.
        threads
            CPU threads for one inference; None leaves the number to the library.

        Raises
        ------
        MissingExtraError
            The library is not installed.
        BackendError
            The library is broken or refuses the variant; the message carries its words.
        """
        library = self._import()
        try:
            return self._load(library, variant, threads)
        except LdmpirError:
            raise
        except Exception as err:
            raise BackendError(
                f"{self.name} cannot load {variant.graph.name}: {one_line(err)}; "
                "try another --backend"
            ) from err

    # The libraries' modules are untyped here: none of them is installed everywhere.
    @abstractmethod
    def _devices(self, library: Any) -> tuple[str, ...]:
        """Name the devices that the imported library sees."""

    @abstractmethod
    def _load(self, library: Any, variant: LoadedVariant, threads: int | None) -> Engine:
        """Build an engine with the imported library."""

    def _import(self) -> Any:
        try:
            return importlib.import_module(self.module)
        except ModuleNotFoundError as err:
            if err.name == self.module and self.extra:
                raise MissingExtraError(f"the {self.name} backend", self.extra) from err
            raise self._broken(err) from err
        except (ImportError, OSError) as err:
            # A wheel for another C library, or a shared object it links to is absent.
            raise self._broken(err) from err

    def _broken(self, err: Exception) -> BackendError:
        return BackendError(
            f"{self.name} cannot be imported ({one_line(err)}); "
            f"reinstall it: {self.install_command}"
        )


def one_line(err: Exception) -> str:
    """Join an exception's text into one line of bounded length, for our own messages."""
    return (" ".join(str(err).split()) or type(err).__name__)[:_MAX_REASON]
