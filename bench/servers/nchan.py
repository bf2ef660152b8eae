"""nginx with the nchan module of Debian: its own worker, its memory store, EventSource subscribers, HTTP publishers."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import NotInstalled
from bench.messages import EVENT_NAME, Message
from bench.processes import Running, descendant, pin, running
from bench.servers.ports import free_port, listening
from bench.servers.posting import Poster, poster

if TYPE_CHECKING:
    from bench.bench import Bench

CHANNEL = "bench"
MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

# What makes it dear is left out: logs, pings, compression. Messages are kept as by default, since resuming is what is
# compared; a new subscriber begins with the last one, so that its opening shows.
_CONFIGURATION = """
load_module {module};
daemon off;
worker_processes 1;
worker_rlimit_nofile {descriptors};
pid {directory}/nginx.pid;
error_log {directory}/nginx.log warn;
events {{ worker_connections {descriptors}; multi_accept on; }}
http {{
  access_log off;
  tcp_nodelay on;
  gzip off;
  keepalive_requests 100000000;
  keepalive_timeout 1h;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  nchan_shared_memory_size 256m;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location ~ ^/sub/([A-Za-z0-9_-]+)$ {{
      nchan_subscriber eventsource;
      nchan_channel_id $1;
      nchan_subscriber_first_message -1;
      nchan_eventsource_ping_interval 0;
    }}
    location ~ ^/pub/([A-Za-z0-9_-]+)$ {{
      nchan_publisher http;
      nchan_channel_id $1;
    }}
  }}
}}
"""
_DESCRIPTORS = 20_000


class Nchan:
    """Its one worker process is the measured one. Made by `nchan`."""

    name = "nchan"

    def __init__(self, process: Running, port: int, publisher: Poster) -> None:
        self.pid = descendant(process.pid, "worker process")
        self.port = port
        self.request = self.stream(CHANNEL)
        self._publisher = publisher

    def stream(self, channel: str) -> bytes:
        """A request for a channel's stream. Its first event comes at once only if something was published before."""
        return (
            f"GET /sub/{channel} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAccept: text/event-stream\r\n\r\n"
        ).encode()

    async def publish(self, message: Message) -> None:
        """To CHANNEL, by one connection. Raises PostRefused."""
        await publish_by(self._publisher, message)


async def publish_by(publisher: Poster, message: Message, channel: str = CHANNEL) -> None:
    """By a connection of one's own (`poster(server.port)`). Raises PostRefused."""
    await publisher.post(f"/pub/{channel}", message.view, f"X-EventSource-Event: {EVENT_NAME}")


def _find_nginx() -> str:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise NotInstalled("nginx")
    if not MODULE.exists():
        raise NotInstalled("libnginx-mod-nchan")
    return program


@asynccontextmanager
async def nchan(bench: Bench) -> AsyncIterator[Nchan]:
    """An nginx of our own, with one message published already. Raises NotInstalled."""
    program = _find_nginx()
    directory, port = bench.directory / "nginx", free_port()
    directory.mkdir(exist_ok=True)
    configuration = directory / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(module=MODULE, directory=directory, port=port, descriptors=_DESCRIPTORS)
    )
    command = (program, "-p", directory, "-c", configuration)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        process = await enter(running("nginx", command, directory=bench.directory, cores=bench.cores.others))
        await listening(port)
        publisher = await enter(poster(port))
        await publish_by(publisher, Message())  # who answers is the worker, so that it is there
        server = Nchan(process, port, publisher)
        pin(server.pid, bench.cores.measured)
        yield server
