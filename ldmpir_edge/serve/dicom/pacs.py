"""A PACS as a target: C-STORE of every image, confirmed one by one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, MRImageStorage

from ldmpir_edge.errors import LdmpirError, OutputError
from ldmpir_edge.serve.config import Pacs
from ldmpir_edge.serve.jobs import Job
from ldmpir_edge.serve.tls import client_context

CONNECT_S, ANSWER_S = 10.0, 30.0

CONFIRMED = frozenset({0x0000, 0xB000, 0xB006, 0xB007})
"""Success, and the warnings under which the image is stored all the same (PS3.4, B.2.3)."""


class DeliveryError(LdmpirError):
    """A PACS cannot be reached or takes nothing."""


class PacsTarget:
    """One PACS.

    Parameters
    ----------
    name, pacs
        As configured.

    Raises
    ------
    UsageError
        Its TLS files cannot be used.
    """

    def __init__(self, name: str, pacs: Pacs) -> None:
        self._name, self._pacs = name, pacs
        self._tls = client_context(pacs.tls) if pacs.tls is not None else None
        self._cancelled = threading.Event()
        self._association: Any = None

    def items(self, result: Path) -> Sequence[str]:
        """List the DICOM images of a result."""
        return sorted(path.relative_to(result).as_posix() for path in result.rglob("*.dcm"))

    def deliver(self, job: Job, result: Path, items: Sequence[str]) -> Sequence[str]:
        """Send images over one association; answer those that the PACS confirmed.

        Raises
        ------
        DeliveryError
            It cannot be reached, or does not take our association.
        OutputError
            The result is not there any more, or damaged.
        """
        ae = AE(ae_title=self._pacs.calling_ae_title)
        ae.connection_timeout = CONNECT_S
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ANSWER_S
        for storage in (MRImageStorage, CTImageStorage):
            ae.add_requested_context(storage, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        address = self._pacs.address
        try:
            association = self._association = ae.associate(
                address.host,
                address.port,
                ae_title=self._pacs.ae_title,
                tls_args=(self._tls, address.host) if self._tls is not None else None,
            )
        except OSError as err:
            raise DeliveryError(
                f"PACS {self._name} at {address} cannot be reached: {err.strerror or err}"
            ) from err
        if not association.is_established:
            raise DeliveryError(
                f"PACS {self._name} at {address} does not take an association for "
                f"{self._pacs.ae_title}; check its address and that it knows "
                f"{self._pacs.calling_ae_title}"
            )
        arrived = []
        try:
            for item in items:
                if self._cancelled.is_set() or not association.is_established:
                    break
                status = association.send_c_store(_read(result / item))
                if status.get("Status") in CONFIRMED:
                    arrived.append(item)
        except (RuntimeError, ValueError) as err:
            # No context was accepted for the image, or the association ended while it was sent.
            if not arrived:
                raise DeliveryError(
                    f"PACS {self._name} does not take the images: {type(err).__name__}"
                ) from err
        finally:
            self._association = None
            if association.is_established:
                association.release()
        return arrived

    def cancel(self) -> None:
        """End the association: a PACS that does not answer must not hold up the end."""
        self._cancelled.set()
        if (association := self._association) is not None:
            # An abort would wait for an answer too.
            with suppress(OSError, AttributeError):
                association.dul.socket.socket.shutdown(socket.SHUT_RDWR)


def _read(path: Path) -> Dataset:
    try:
        return dcmread(path)
    except (OSError, InvalidDicomError) as err:
        raise OutputError(f"{path} cannot be read: {type(err).__name__}") from err
