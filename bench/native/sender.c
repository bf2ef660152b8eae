/* The yardstick: what it costs to send() the same bytes to each of N connections, and nothing else.
 *
 *     sender
 *
 * It prints {"port":…,"udp":…}. Each request on the TCP port is answered with the head of an event stream and one
 * event; then each datagram on the UDP port, whatever it holds, is sent to all connections by a loop of send(). The
 * sockets have the options that the gateway gives its own.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

enum { KERNEL_BUFFER_BYTES = 64 * 1024, USER_TIMEOUT_MS = 30000, MOST = 32768, EVENTS_AT_ONCE = 512 };

static const char HEAD[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    "1f\r\nevent: stream.opened\ndata: {}\n\n\r\n";

static int connections[MOST], connected, poller;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static int bound(int kind, uint16_t *port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int fd = socket(AF_INET, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0) die("bind");
  if (getsockname(fd, (struct sockaddr *)&address, &size) < 0) die("getsockname");
  *port = ntohs(address.sin_port);
  return fd;
}

static void watch(int fd) {
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
}

static void welcome(int listener) {
  int fd, on = 1, buffer = KERNEL_BUFFER_BYTES, timeout = USER_TIMEOUT_MS;
  while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
    watch(fd);
  }
}

static void forget(int fd) {
  for (int each = 0; each < connected; each++)
    if (connections[each] == fd) connections[each] = connections[--connected];
  close(fd);
}

static void answer(int fd) {
  char request[65536];
  ssize_t size = recv(fd, request, sizeof request, 0);
  if (size < 0 && errno == EAGAIN) return;
  if (size <= 0) return forget(fd);
  if (size < 4 || memcmp(request + size - 4, "\r\n\r\n", 4)) return; /* the rest comes; nothing in it matters */
  if (connected == MOST || send(fd, HEAD, sizeof HEAD - 1, MSG_NOSIGNAL) < 0) return forget(fd);
  connections[connected++] = fd;
}

static void fan_out(int datagrams) {
  char frame[65536];
  ssize_t size;
  while ((size = recv(datagrams, frame, sizeof frame, 0)) > 0)
    for (int each = 0; each < connected; each++)
      /* What a full socket does not take is missed by the sink, which fails the run; who has left is forgotten soon. */
      if (send(connections[each], frame, (size_t)size, MSG_NOSIGNAL) < 0) continue;
}

int main(void) {
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  uint16_t port, udp;
  int listener = bound(SOCK_STREAM, &port), datagrams = bound(SOCK_DGRAM, &udp);
  if (listen(listener, 4096) < 0 || (poller = epoll_create1(EPOLL_CLOEXEC)) < 0) die("start");
  watch(listener);
  watch(datagrams);
  printf("{\"port\":%d,\"udp\":%d}\n", port, udp);
  fflush(stdout);
  static struct epoll_event events[EVENTS_AT_ONCE];
  for (;;) {
    int ready = epoll_wait(poller, events, EVENTS_AT_ONCE, -1);
    if (ready < 0 && errno != EINTR) die("epoll_wait");
    for (int each = 0; each < ready; each++) {
      int fd = events[each].data.fd;
      if (fd == listener)
        welcome(fd);
      else if (fd == datagrams)
        fan_out(fd);
      else
        answer(fd);
    }
  }
}
