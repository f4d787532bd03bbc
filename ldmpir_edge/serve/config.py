"""The appliance's configuration: one TOML file, which the command line's flags override."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ldmpir_edge.bundle import Precision
from ldmpir_edge.errors import UsageError
from ldmpir_edge.reconstruct.reconstructor import DEFAULT_BUNDLE
from ldmpir_edge.scans.write import FORMATS
from ldmpir_edge.serve.address import Address, HostPort

Source = Literal["mrd", "dicom", "http", "watch"]
SOURCES: tuple[Source, ...] = ("mrd", "dicom", "http", "watch")

OUT = "out"
"""Name of the output folder among a route's targets."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")]
AeTitle = Annotated[str, Field(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]
"""PS3.5, 6.2: up to 16 printable characters without a backslash; spaces inside only."""
Seconds = Annotated[float, Field(gt=0, le=86400)]
Positive = Annotated[int, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tls(_Part):
    """Files in PEM. With `client_ca` a peer must show a certificate of that authority (mutual)."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class Door(_Part):
    """What the listening doors have in common; `peers` are the networks that may connect."""

    listen: Address
    tls: Tls | None = None
    peers: tuple[IPvAnyNetwork, ...] = ()

    @property
    def is_guarded(self) -> bool:
        """Whether something tells wanted peers from others."""
        return bool(self.peers or (self.tls and self.tls.client_ca))

    @model_validator(mode="after")
    def _guard(self) -> Self:
        if not self.listen.is_loopback and not self.is_guarded:
            raise ValueError(
                f"{self.listen} can be reached from other machines: say who may come in, with "
                f"{self._guards()}"
            )
        return self

    def _guards(self) -> str:
        return "peers or tls.client_ca"


class MrdDoor(Door):
    """The MRD streaming server."""


class DicomDoor(Door):
    """The DICOM storage SCP.

    Images of a series become one job when the associations that sent them have ended and none
    followed for `quiet_s`.
    """

    ae_title: AeTitle = "LDMPIR"
    calling_ae_titles: tuple[AeTitle, ...] = ()
    quiet_s: Seconds = 5.0

    @property
    def is_guarded(self) -> bool:
        """Whether something tells wanted peers from others."""
        return super().is_guarded or bool(self.calling_ae_titles)

    def _guards(self) -> str:
        return "calling_ae_titles, peers or tls.client_ca"


class HttpDoor(Door):
    """The HTTP server.

    `tokens` maps names to the hashes that `serve --new-token` gives; each, or each peer where
    there are none, may make so many requests a minute.
    """

    tokens: dict[Name, Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]] = {}
    requests_per_minute: Positive = 1200

    @property
    def is_guarded(self) -> bool:
        """Whether something tells wanted peers from others."""
        return super().is_guarded or bool(self.tokens)

    def _guards(self) -> str:
        return "tokens, peers or tls.client_ca"


class WatchDoor(_Part):
    """A folder looked at every `poll_s`; a file is taken once unchanged for `settle_s`."""

    folder: Path
    poll_s: Seconds = 2.0
    settle_s: Seconds = 5.0


class Pacs(_Part):
    """A DICOM node that images are sent to."""

    address: Address
    ae_title: AeTitle
    calling_ae_title: AeTitle = "LDMPIR"
    tls: Tls | None = None


class Limits(_Part):
    """What the appliance takes before it refuses; sizes in bytes.

    `max_jobs` and `max_bytes` count jobs that are not delivered yet, with payload and result.
    """

    max_jobs: Positive = 1000
    max_bytes: Positive = 50 * 2**30
    max_payload_bytes: Positive = 8 * 2**30
    min_free_bytes: Annotated[int, Field(ge=0)] = 2**30
    keep_hours: Annotated[float, Field(ge=0, le=24 * 366)] = 24.0


class Collection(_Part):
    """Scans that are kept, encrypted, to fine-tune on; the bounds are those of each route.

    `key` is a file that `serve --new-collection-key` made. The oldest scans go first.
    """

    key: Path
    max_scans: Positive = 20
    max_bytes: Positive = 10 * 2**30
    keep_days: Annotated[float, Field(gt=0, le=366)] = 30.0


class Route(_Part):
    """What happens to scans of some sources: the first route that fits a scan takes it.

    Parameters
    ----------
    sources
        Doors it serves.
    label
        Shell pattern that the peer's own word must match: the calling AE title, the MRD
        configuration's name, the name of the API token, or the folder in the watched one.
    bundle, backend
        As of `ldmpir-edge run`.
    task, factor
        As of `ldmpir-edge run`, for images; raw data are reconstructed whatever they are.
    steps, precisions
        Best first; the scheduler may move down both lists to meet the deadline. No steps: the
        bundle's default.
    deadline_s
        From receipt to image. None: take the time that the best variant takes.
    formats
        What is written to the output folder.
    targets
        `out` and names of `[pacs.NAME]`; None stands for all there are.
    collect
        Whether its scans may be kept for fine-tuning: who sends a scan this way consents.
    """

    name: Name
    sources: tuple[Source, ...] = SOURCES
    label: str = "*"
    bundle: str = DEFAULT_BUNDLE
    backend: str | None = None
    task: Literal["denoise", "inpaint", "super-resolve"] | None = None
    factor: Literal[2, 4] | None = None
    steps: tuple[Positive, ...] = ()
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)] = ("fp32",)
    deadline_s: Seconds | None = None
    formats: tuple[str, ...] = ("dicom",)
    targets: tuple[str, ...] | None = None
    collect: bool = False

    @model_validator(mode="after")
    def _factor_of_a_task(self) -> Self:
        if self.factor is not None and self.task != "super-resolve":
            raise ValueError(f'factor = {self.factor} goes with task = "super-resolve"')
        return self

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in formats if name not in FORMATS]
        if unknown or not formats:
            raise ValueError(f"choose of {', '.join(FORMATS)}")
        return formats


class ServeConfig(BaseSettings):
    """Everything the appliance is told; nothing is taken from the environment."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    state: Path
    out: Path | None = None
    allow_unsigned: bool = False
    mrd: MrdDoor | None = None
    dicom: DicomDoor | None = None
    http: HttpDoor | None = None
    watch: WatchDoor | None = None
    pacs: dict[Name, Pacs] = {}
    limits: Limits = Limits()
    collection: Collection | None = None
    routes: Annotated[tuple[Route, ...], Field(min_length=1)] = (Route(name="default"),)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take flags before the file, and neither environment nor secrets."""
        return init_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def doors(self) -> dict[Source, str]:
        """The doors that are on, and where they are."""
        listening = {"mrd": self.mrd, "dicom": self.dicom, "http": self.http}
        found = {name: str(door.listen) for name, door in listening.items() if door is not None}
        if self.watch is not None:
            found["watch"] = str(self.watch.folder)
        return {name: found[name] for name in SOURCES if name in found}

    @property
    def collecting(self) -> tuple[str, ...]:
        """Names of the routes whose scans are kept for fine-tuning."""
        return tuple(route.name for route in self.routes if route.collect)

    def named_route(self, name: str) -> Route:
        """Answer the route of this name.

        Raises
        ------
        UsageError
            There is none; the message lists those there are.
        """
        for route in self.routes:
            if route.name == name:
                return route
        held = ", ".join(route.name for route in self.routes)
        raise UsageError(f"no route {name!r} is configured; choose of {held}")

    def route(self, source: Source, label: str = "") -> Route | None:
        """Find the route of a scan by the door it came through and the peer's own word."""
        for route in self.routes:
            if source in route.sources and fnmatchcase(label, route.label):
                return route
        return None

    def targets(self, route: Route) -> tuple[str, ...]:
        """Name the targets of a route, `out` first."""
        every = ((OUT,) if self.out is not None else ()) + tuple(self.pacs)
        wanted = every if route.targets is None else route.targets
        return tuple(name for name in every if name in wanted)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if OUT in self.pacs:
            raise ValueError(f"a PACS cannot be called {OUT}, the name of the output folder")
        names = [route.name for route in self.routes]
        if len(set(names)) < len(names):
            raise ValueError(f"two routes have the same name among {names}")
        known = ({OUT} if self.out is not None else set()) | set(self.pacs)
        for route in self.routes:
            if unknown := set(route.targets or ()) - known:
                raise ValueError(
                    f"route {route.name} delivers to {', '.join(sorted(unknown))}, which is not "
                    "configured; add out or [pacs.NAME]"
                )
        self._collect_with_reason()
        self._keep_folders_apart()
        return self

    def _collect_with_reason(self) -> None:
        if self.collection is None:
            if self.collecting:
                raise ValueError(
                    f"route {self.collecting[0]} collects scans, but nothing says how; add "
                    "[collection] with its key"
                )
            return
        if not self.collecting:
            raise ValueError("[collection] is there, but no route collects; add collect = true")
        for route in self.routes:
            if route.collect and route.task in ("inpaint", "super-resolve"):
                raise ValueError(
                    f"route {route.name} collects scans to {route.task}, on which no model is "
                    "fine-tuned; take collect from it"
                )
        key = self.collection.key.resolve()
        folders = (self.state, self.out, self.watch.folder if self.watch else None)
        for folder in folders:
            if folder is not None and folder.resolve() in key.parents:
                raise ValueError(
                    f"the collection's key {key} lies in {folder}; keep it apart from what it "
                    "protects"
                )

    def _keep_folders_apart(self) -> None:
        # Outputs inside the watched folder would be taken for scans, round and round.
        folders = {"state": self.state, "out": self.out}
        folders["watch"] = self.watch.folder if self.watch else None
        places = [(name, path.resolve()) for name, path in folders.items() if path is not None]
        for index, (name, place) in enumerate(places):
            for other, beside in places[index + 1 :]:
                if place == beside or place in beside.parents or beside in place.parents:
                    raise ValueError(
                        f"the folders of {name} and {other}, {place} and {beside}, lie in one "
                        "another; name separate ones"
                    )


def load_config(file: Path | None, flags: Mapping[str, Any]) -> ServeConfig:
    """Read the configuration.

    Parameters
    ----------
    file
        TOML, or None for flags alone.
    flags
        Values that go before the file's, nested as in it.

    Raises
    ------
    UsageError
        The file cannot be read, is not TOML, or a value is missing, unknown or contradictory.
    """
    if file is not None:
        _check_toml(file)

    class FromFile(ServeConfig):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        read = FromFile(**flags)
    except ValidationError as err:
        raise UsageError(_first_error(file, err)) from err
    return read


def _check_toml(file: Path) -> None:
    try:
        tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as err:
        raise UsageError(
            f"cannot read the configuration {file}: {err.strerror}; check --config"
        ) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise UsageError(f"{file} is not TOML: {err}; repair it") from err


def _first_error(file: Path | None, err: ValidationError) -> str:
    first = err.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"])) or "the configuration"
    what = first["msg"].removeprefix("Value error, ")
    value = first["input"]
    # What stands in place of a hash may be the token itself.
    shown = isinstance(value, str | int | float | HostPort) and "tokens" not in first["loc"]
    given = f", not {value!r}" if shown else ""
    if first["type"] == "missing":
        flag = f" or give --{where}" if where in {"state", "out"} else ""
        return f"{where} is missing; set it in {file or 'a file for --config'}{flag}"
    return f"{where}: {what}{given}; see docs/appliance.md"
