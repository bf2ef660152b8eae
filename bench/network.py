"""A network of the benchmark's own: a loopback that nobody else uses, with the congestion control that Linux has by
default.

The latter matters even on loopback. BBR takes a stream of single events for a slow path, and sends the first burst that
follows at that pace: half a second late.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

CONGESTION_CONTROL = "cubic"

_SETTING = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

_libc = ctypes.CDLL(None, use_errno=True)


def enter_own_network() -> bool:
    """Move this thread, and all processes that it will start, into a network of its own. Only root may.

    Returns whether that was done. Call it before anything is connected.
    """
    if _libc.unshare(_CLONE_NEWNET):
        if ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    _SETTING.write_text(CONGESTION_CONTROL)
    return True


def congestion_control() -> str:
    """The one that is in use here."""
    return _SETTING.read_text().strip()
