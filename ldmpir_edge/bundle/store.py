"""Find bundles, and put a variant's files where an engine can load them."""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from ldmpir_edge.bundle.archive import Archive
from ldmpir_edge.bundle.engines import BuildRecipe, EngineSpec, unpack_engine
from ldmpir_edge.bundle.golden import GoldenPair, parse_golden
from ldmpir_edge.bundle.manifest import Manifest
from ldmpir_edge.bundle.paths import cache_root
from ldmpir_edge.bundle.schema import EntrySpec, ModelInfo, Precision, SizeLimits, TensorSpec
from ldmpir_edge.bundle.signing import Trust
from ldmpir_edge.errors import BundleError
from ldmpir_edge.physics.problem import Family

SUFFIX = ".ldmpir"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedVariant:
    """One variant on disk, ready for an engine.

    Attributes
    ----------
    graph
        The ONNX file; its external weights lie beside it.
    inputs, outputs
        The tensors of this graph.
    model, source_hashes
        From the manifest; tell a backend that loads other files which model they must be.
    content_sha256
        Identifies the bytes of graph and weights, which were checked against the bundle's hashes
        when they were unpacked; None where no bundle vouches for the files.
    limits, recipe
        From the manifest: the sizes that an engine compiled for the device must take, and how it
        is compiled. Without limits none can be.
    place
        Puts the files where they are, as they were; None where no bundle can.
    """

    graph: Path
    family: Family
    n_steps: int
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    model: ModelInfo
    source_hashes: Mapping[str, str]
    content_sha256: str | None = None
    limits: SizeLimits | None = None
    recipe: BuildRecipe | None = None
    place: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    def renew(self) -> None:
        """Check the files again, and put back what is gone or changed, for who reads them late.

        Raises
        ------
        BundleError
            They are not what they were, and cannot be put back.
        """
        if self.place is not None:
            try:
                self.place()
            except OSError as err:
                raise BundleError(
                    f"cannot put back {self.graph}: {err.strerror}; free some disk space"
                ) from err


class Bundle:
    """A bundle whose every byte has been checked.

    Parameters
    ----------
    path
        The `.ldmpir` file.

    Raises
    ------
    BundleError
        It cannot be opened; as `ldmpir_edge.bundle.archive.Archive` and its `verify_all`.
    """

    def __init__(self, path: Path) -> None:
        self._archive = Archive(path)
        # A few milliseconds for the size a bundle has, so that no run starts on a changed file,
        # whichever variant the change is in.
        self._archive.verify_all()

    @property
    def path(self) -> Path:
        """The file."""
        return self._archive.path

    @property
    def manifest(self) -> Manifest:
        """What the bundle says about itself."""
        return self._archive.manifest

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest: the identity of the bundle's content."""
        return self._archive.digest

    @property
    def trust(self) -> Trust:
        """Who signed it."""
        return self._archive.trust

    def hold(self) -> None:
        """Keep the whole file in memory, for who has to outlive its replacement or removal.

        Raises
        ------
        BundleTamperedError
            It is not the file that was opened any more.
        BundleError
            It cannot be read.
        """
        self._archive.hold()
        self._archive.verify_all()

    def save(self, target: Path) -> None:
        """Write a copy of the file, as it is held if it is.

        Raises
        ------
        BundleError
            It cannot be read any more.
        OutputError
            `target` cannot be written.
        """
        self._archive.save(target)

    def golden(self, family: Family) -> GoldenPair:
        """Answer the known input and output of a family.

        Raises
        ------
        BundleError
            The bundle has none for it, or it is invalid.
        """
        spec = self.manifest.family(family)
        if spec.golden is None:
            raise BundleError(f"{self.path} has no golden pair for {family}; export it again")
        return parse_golden(self._archive.read(spec.golden), spec, str(self.path))

    def extract(self, family: Family, n_steps: int, precision: Precision) -> LoadedVariant:
        """Put one variant's graph and weights into the cache.

        Files already there are used again if their hash is still right, and else rewritten. An
        unwritable cache is replaced by a temporary folder that goes when the process ends.

        Raises
        ------
        BundleError
            The bundle has no such variant, or not even a temporary folder can be written.
        """
        variant = self.manifest.variant(family, n_steps, precision)
        wanted = (variant.graph, *variant.weights)
        folder = cache_root() / self.digest[:16]
        try:
            self._place(wanted, folder)
        except OSError as err:
            _log.warning("cannot use the cache %s (%s); using a temporary folder", folder, err)
            try:
                folder = _temporary_folder(self.digest)
                self._place(wanted, folder)
            except OSError as second:
                raise BundleError(
                    f"cannot extract {self.path} to {folder}: {second.strerror}; free some disk "
                    "space or set LDMPIR_CACHE_DIR to a writable folder"
                ) from second
        spec = self.manifest.family(family)
        return LoadedVariant(
            graph=folder / variant.graph,
            family=family,
            n_steps=n_steps,
            precision=precision,
            inputs=tuple(tensor for tensor in spec.inputs if tensor.name in variant.inputs),
            outputs=spec.outputs,
            model=self.manifest.model,
            source_hashes=self.manifest.source_hashes,
            content_sha256=self._content_sha256(wanted),
            limits=self.manifest.limits,
            recipe=self.manifest.recipe,
            place=functools.partial(self._place, wanted, folder),
        )

    def engine(self, spec: EngineSpec) -> bytes:
        """Answer one of the engines that were compiled ahead of time.

        Raises
        ------
        BundleTamperedError
            It is not what the manifest says.
        """
        return unpack_engine(self._archive.read(spec.pack), spec, str(self.path))

    def _content_sha256(self, names: tuple[str, ...]) -> str:
        lines = [f"{self.manifest.entries[name].sha256}  {name}\n" for name in names]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _place(self, names: tuple[str, ...], folder: Path) -> None:
        for name in names:
            target = folder / name
            if _is_intact(target, self.manifest.entries[name]):
                continue
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
                temporary = Path(file.name)
                try:
                    file.write(self._archive.read(name))
                    file.flush()
                    temporary.replace(target)
                except BaseException:
                    temporary.unlink(missing_ok=True)
                    raise


def open_bundle(name_or_path: str | Path) -> Bundle:
    """Open a bundle by path or by the name of a packaged one, and check all of it.

    Raises
    ------
    BundleError
        There is no such bundle or it is not intact.
    """
    return Bundle(find_bundle(name_or_path))


def find_bundle(name_or_path: str | Path) -> Path:
    """Answer the file of a bundle.

    Parameters
    ----------
    name_or_path
        A path, or the name of a bundle that the package carries, such as `ldmpir-2m`.

    Raises
    ------
    BundleError
        It is neither; the message lists the packaged names.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    packaged = packaged_bundles()
    if str(name_or_path) in packaged:
        return packaged[str(name_or_path)]
    raise BundleError(
        f"no bundle {str(name_or_path)!r}: it is not a file, and the packaged bundles are: "
        f"{', '.join(packaged) or 'none'}; give the path of a {SUFFIX} file"
    )


def packaged_bundles() -> dict[str, Path]:
    """Answer the bundles that the installed package carries, by name."""
    folder = Path(str(files("ldmpir_edge"))) / "assets"
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def _is_intact(path: Path, spec: EntrySpec) -> bool:
    try:
        if path.stat().st_size != spec.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == spec.sha256
    except FileNotFoundError:
        return False


@functools.cache
def _temporary_folder(digest: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"ldmpir-{digest[:16]}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
