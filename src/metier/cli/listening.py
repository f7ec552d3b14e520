"""Where and how `metier serve` listens, decided once and handed to every worker; light, for the process above them."""

from __future__ import annotations

import ipaddress
import pathlib
import socket
from dataclasses import dataclass

from metier.errors import ConfigError

__all__ = ["NO_MODELS", "Service", "listen", "shown"]

NO_MODELS = (
    "Warning: no model is declared, so no call can be answered and /readyz says 503: run metier init, or write "
    "`models:` into metier.yaml; METIER_CONFIG says where it is."
)
"""What `metier serve` says where it starts without a model."""


@dataclass(frozen=True, slots=True)
class Service:
    """Everything the options of `metier serve` say."""

    host: str
    port: int
    work: bool = True
    """Also run workflows."""
    as_json: bool = False
    behind_proxy: bool = False
    """A proxy in front ends TLS."""
    cleartext: bool = False
    """Whoever runs it accepts that keys and contents cross the network readable."""
    tls_cert: str | None = None
    tls_key: str | None = None
    notice_s: float = 1.0
    """How long /readyz says 503 before the port closes."""
    patience_s: float = 20.0
    """How long calls under way may still take then."""

    def check(self) -> None:
        """Refuse what cannot be listened on, and what would send keys over a network in the clear unasked."""
        try:
            here = self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            raise ConfigError(
                f"cannot listen on {self.host!r}: give an IP address such as 127.0.0.1 or 0.0.0.0"
            ) from None
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("TLS needs both files: give --tls-cert and --tls-key")
        for path in (self.tls_cert, self.tls_key):
            if path is not None and not pathlib.Path(path).is_file():
                raise ConfigError(f"there is no file {path!r} for TLS: give a certificate and its key in PEM")
        if not here and self.tls_cert is None and not self.behind_proxy and not self.cleartext:
            raise ConfigError(
                f"listening on {self.host} without TLS shows keys and contents to the network: give --behind-proxy "
                "where a proxy in front ends TLS, --tls-cert and --tls-key to end it here, or --cleartext to accept it"
            )


def listen(service: Service) -> socket.socket:
    """Open the port ourselves: what goes wrong can then be told to people, and workers may share it."""
    family = socket.AF_INET6 if ":" in service.host else socket.AF_INET
    try:
        return socket.create_server((service.host, service.port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {service.host} port {service.port}: {error.strerror}; stop what listens there, or give "
            "another --port"
        ) from None


def shown(service: Service, listening: socket.socket) -> str:
    """Give the address for people and programs."""
    host, port = listening.getsockname()[:2]
    scheme = "http" if service.tls_cert is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
