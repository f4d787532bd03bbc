"""Choose a backend and say why; move on to the next when one fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from ldmpir_edge.bundle import LoadedVariant, Precision
from ldmpir_edge.errors import BackendError, BundleError, LdmpirError, MissingExtraError
from ldmpir_edge.runtimes.base import Arrays, Availability, Backend, Engine
from ldmpir_edge.runtimes.conformance import recall
from ldmpir_edge.runtimes.registry import BACKENDS, get_backend

_log = logging.getLogger(__name__)


def choose_backend(
    requested: str | None = None, precision: Precision = "fp32"
) -> tuple[Backend, str]:
    """Choose the backend for a run.

    Parameters
    ----------
    requested
        A name, which is then the only candidate, or None for the first of the registry that can
        run here and computes what variants of `precision` rely on as ONNX defines it.

    Returns
    -------
        The backend and, as a sentence, why it is this one.

    Raises
    ------
    UsageError
        There is no backend of that name.
    MissingExtraError
        The one requested is not installed.
    BackendError
        The one requested is broken, or none can run here.
    """
    return next(_candidates(requested, precision))


def load_engine(
    variant: LoadedVariant, requested: str | None = None, threads: int | None = None
) -> SelectedEngine:
    """Load a variant on the chosen backend, or on the next one that takes it.

    Parameters
    ----------
    variant
        Graph and weights on disk.
    requested
        A backend's name: only that one is tried. None tries all that can run here, in order.
    threads
        CPU threads for one inference; None leaves the number to the library.

    Raises
    ------
    UsageError, MissingExtraError
        As `choose_backend`.
    BackendError
        No backend could load it; the message gives each one's reason.
    """
    return SelectedEngine(variant, requested, threads)


class SelectedEngine(Engine):
    """An engine that hands over to the next backend when its own fails.

    Attributes
    ----------
    backend : str
        The backend in use now.
    reason : str
        Why it is this one, as a sentence; grows when a backend has failed.
    vet : Callable[[Engine], None] or None
        Called with each engine that is to take over from one that failed in a run, before its
        first image; a `LdmpirError` passes it over.
    """

    def __init__(self, variant: LoadedVariant, requested: str | None, threads: int | None) -> None:
        super().__init__("", variant)
        self.reason = ""
        self.vet: Callable[[Engine], None] | None = None
        self._threads = threads
        self._remaining = _candidates(requested, variant.precision)
        self._failures: list[LdmpirError] = []
        engine = self._load_next()
        if engine is None:
            raise self._no_engine()
        self._engine = engine

    def close(self) -> None:
        """Free the engine in use."""
        self._engine.close()

    def _run(self, inputs: Arrays) -> Arrays:
        while True:
            try:
                return self._engine.run(inputs)
            except BackendError as err:
                self._failures.append(err)
                replacement = self._load_next()
                if replacement is None:
                    # The engine stays: what failed may have been this one input.
                    self._failures.clear()
                    raise
            self._engine.close()
            self._engine = replacement

    def _load_next(self) -> Engine | None:
        for backend, reason in self._remaining:
            try:
                if self._failures:
                    # It is late: the files may not be there any more.
                    self.variant.renew()
                engine = backend.load(self.variant, self._threads)
            except (BackendError, BundleError, MissingExtraError) as err:
                self._failures.append(err)
                continue
            if self.vet is not None:
                try:
                    self.vet(engine)
                except LdmpirError as err:
                    engine.close()
                    self._failures.append(err)
                    continue
            self.backend = backend.name
            self.reason = reason
            if self._failures:
                self.reason += f"; before it failed: {self._list_failures()}"
                _log.warning("using %s", self.reason)
            _log.debug("loaded %s for %s", self.variant.graph.name, self.reason)
            return engine
        return None

    def _no_engine(self) -> LdmpirError:
        if len(self._failures) == 1:
            return self._failures[0]
        return BackendError(f"no backend can load the variant: {self._list_failures()}")

    def _list_failures(self) -> str:
        return "; ".join(map(str, self._failures))


def _candidates(requested: str | None, precision: Precision) -> Iterator[tuple[Backend, str]]:
    """Yield the backends to try, each with its reason; raise if there is not even one."""
    faulty: list[str] = []
    if requested is not None:
        backend = get_backend(requested)
        state = backend.availability()
        if not state.ok:
            if backend.extra and state.reason == "not installed":
                raise MissingExtraError(f"the {backend.name} backend", backend.extra)
            raise BackendError(f"{backend.name} cannot run here: {state.reason}")
        choices = backend.choices()
        for choice in choices:
            faults = _list_faults(choice, state, precision)
            if faults and choice is not choices[-1]:
                faulty.append(f"{choice.name} {faults}")
                continue
            though = f", although it {faults}" if faults else ""
            why = "".join(f"; {reason}" for reason in faulty)
            yield choice, f"{choice.name} {state.version}, as requested{though}{why}"
        return
    passed_over: list[str] = []
    n_found = 0
    for backend in BACKENDS:
        state = backend.availability()
        if not state.ok:
            if state.install_command:
                passed_over.append(f"{backend.name} is {state.reason}: {state.install_command}")
            continue
        for choice in backend.choices():
            if faults := _list_faults(choice, state, precision):
                faulty.append(f"{choice.name} {state.version} {faults}")
                continue
            n_found += 1
            why = "".join(f"; {reason}" for reason in (*passed_over, *faulty))
            yield choice, f"{choice.name} {state.version}, the preferred engine installed{why}"
    if faulty and not n_found:
        raise BackendError(f"no engine here is sound: {'; '.join(faulty)}; name one by --backend")
    if not n_found:
        raise BackendError("no inference engine is installed; run: pip install onnxruntime")


def _list_faults(backend: Backend, state: Availability, precision: Precision) -> str:
    found = recall(backend, state)
    faults = found.faults(precision) if found else ()
    if not faults:
        return ""
    first, *others = faults
    text = str(first)
    if others:
        text += f" and {len(others)} more operators, which `ldmpir-edge doctor` lists"
    _log.warning("%s %s", backend.name, text)
    return text
