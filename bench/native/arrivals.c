/* When events arrive: at every stream of a server, and at a bare subscriber of the broker, by one clock in one process.
 *
 *     arrivals PORT REQUESTS NATS_PORT PASSWORD RECORDS
 *
 * REQUESTS is a file of whole GET requests, one after the other: each is a stream of the server at PORT. Then it connects
 * to the broker as its user `gateway`, and has a consumer made that pushes each new entry of EVENTS without asking for
 * acknowledgements: what a gateway itself reads by, and nothing behind it. When each stream has its head and the consumer
 * is there, it writes a line.
 *
 * An event contains `:"t<digits>"`, when it was published. Each arrival of one is a record in RECORDS: who (u32, the
 * number of the stream; 0xffffffff is the subscriber), 4 bytes of nothing, that stamp and the time of arrival (u64 each,
 * nanoseconds of CLOCK_MONOTONIC). They are written when a line comes on standard input, which is answered by a line then.
 *
 * Whatever goes wrong ends it with 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { READ_BYTES = 256 * 1024, KEPT = 48, EVENTS_AT_ONCE = 256, OPENING_AT_ONCE = 16 };

#define STAMP ":\"t"
#define INBOX "_INBOX_gateway.arrivals"
#define SUBSCRIBER UINT32_MAX
#define COMMANDS (UINT32_MAX - 1)

struct stream {
  int fd;
  bool begun;
  size_t kept;
  char end[KEPT]; /* of what was read: a stamp may have begun there */
};

struct record {
  uint32_t who, nothing;
  uint64_t stamp, at;
};

static struct stream *streams;
static uint32_t stream_count, begun_count;
static int poller, broker;
static char buffer[KEPT + READ_BYTES];
static char told[READ_BYTES]; /* by the broker, and not understood yet */
static size_t told_size;
static bool consumer_made;
static struct record *records;
static size_t record_count, record_room;

static void fail(const char *what) {
  fprintf(stderr, "arrivals: %s: %s\n", what, errno ? strerror(errno) : "not as it was meant to be");
  exit(1);
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000ULL + (uint64_t)time.tv_nsec;
}

static void note(uint32_t who, uint64_t stamp, uint64_t at) {
  if (record_count == record_room) {
    record_room = record_room ? 2 * record_room : 1 << 16;
    records = realloc(records, record_room * sizeof *records);
    if (!records) fail("realloc");
  }
  records[record_count++] = (struct record){.who = who, .stamp = stamp, .at = at};
}

static const char *note_stamps(uint32_t who, const char *from, const char *end, uint64_t at) {
  /* Returns what is to be looked at again with what comes next: the end, where a stamp may have begun. */
  const char *found;
  while ((found = memmem(from, (size_t)(end - from), STAMP, sizeof STAMP - 1))) {
    const char *digit = found + sizeof STAMP - 1;
    uint64_t stamp = 0;
    while (digit < end && *digit >= '0' && *digit <= '9') stamp = stamp * 10 + (uint64_t)(*digit++ - '0');
    if (digit == end) return found;
    if (*digit == '"' && digit - found > 10) note(who, stamp, at);
    from = digit;
  }
  const char *least = end - (sizeof STAMP - 2);
  return from > least ? from : least;
}

/* -- The streams ------------------------------------------------------------------------------------------------ */

static int connected(int port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

static void watch(int fd, uint32_t who) {
  struct epoll_event event = {.events = EPOLLIN, .data.u32 = who};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) fail("epoll_ctl");
}

static void send_all(int fd, const char *data, size_t size) {
  while (size) {
    ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
    if (sent < 0) fail("send");
    data += sent;
    size -= (size_t)sent;
  }
}

static void serve(const char *records_path);

static void open_streams(int port, const char *path, const char *records_path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat found;
  if (fd < 0 || fstat(fd, &found) < 0 || !found.st_size) fail(path);
  const char *from = mmap(NULL, (size_t)found.st_size, PROT_READ, MAP_PRIVATE, fd, 0), *end = from + found.st_size;
  if (from == MAP_FAILED) fail("mmap");
  while (from < end) {
    const char *next = memmem(from, (size_t)(end - from), "\r\n\r\n", 4);
    if (!next) fail("the last request has no end");
    next += 4;
    streams = realloc(streams, (stream_count + 1) * sizeof *streams);
    if (!streams) fail("realloc");
    struct stream *stream = &streams[stream_count];
    memset(stream, 0, sizeof *stream);
    stream->fd = connected(port);
    send_all(stream->fd, from, (size_t)(next - from));
    watch(stream->fd, stream_count++);
    while (stream_count - begun_count == OPENING_AT_ONCE) serve(records_path);
    from = next;
  }
}

static void read_stream(uint32_t who) {
  struct stream *stream = &streams[who];
  char *fresh = buffer + KEPT, *from = fresh - stream->kept;
  ssize_t size = recv(stream->fd, fresh, READ_BYTES, 0);
  uint64_t at = now();
  errno = size < 0 ? errno : 0;
  if (size <= 0) fail("a stream was ended");
  memcpy(from, stream->end, stream->kept);
  if (!stream->begun) {
    if (size < 12 || memcmp(fresh + 9, "200", 3)) fail("a stream was refused");
    stream->begun = true;
    begun_count++;
  }
  const char *again = note_stamps(who, from, fresh + size, at);
  stream->kept = (size_t)(fresh + size - again);
  if (stream->kept > KEPT) fail("a stamp is too long");
  memcpy(stream->end, again, stream->kept);
}

/* -- The subscriber --------------------------------------------------------------------------------------------- */

static void subscribe(int port, const char *password) {
  static const char create[] =
      "{\"stream_name\":\"EVENTS\",\"config\":{\"deliver_subject\":\"" INBOX ".event\",\"deliver_policy\":\"new\","
      "\"ack_policy\":\"none\",\"mem_storage\":true,\"num_replicas\":1}}";
  char line[1024];
  broker = connected(port);
  int size = snprintf(line, sizeof line,
                      "CONNECT {\"user\":\"gateway\",\"pass\":\"%s\",\"verbose\":false,\"pedantic\":false,"
                      "\"headers\":true,\"lang\":\"bench\",\"version\":\"1\"}\r\nSUB " INBOX ".made 1\r\nSUB " INBOX
                      ".event 2\r\n" /* by its name: a consumer does not see that a wildcard listens */
                      "PUB $JS.API.CONSUMER.CREATE.EVENTS " INBOX ".made %zu\r\n%s\r\n",
                      password, sizeof create - 1, create);
  if (size < 0 || (size_t)size >= sizeof line) fail("the password");
  send_all(broker, line, (size_t)size);
  watch(broker, SUBSCRIBER);
}

static size_t take_line(char *line, size_t size, uint64_t at) {
  /* How many bytes one operation of the broker has, 0 if it is not complete. `line` may be written to. */
  char *end = memmem(line, size, "\r\n", 2);
  if (!end) return 0;
  size_t length = (size_t)(end + 2 - line);
  *end = 0;
  if (!strncmp(line, "-ERR", 4)) {
    errno = 0;
    fail(line);
  }
  if (!strcmp(line, "PING")) send_all(broker, "PONG\r\n", 6);
  if (strncmp(line, "MSG ", 4) && strncmp(line, "HMSG ", 5)) return length;
  size_t payload = strtoul(strrchr(line, ' ') + 1, NULL, 10);
  *end = '\r';
  if (size < length + payload + 2) return 0;
  char *body = line + length;
  if (memmem(line, length, INBOX ".made ", sizeof INBOX + 5)) {
    errno = 0;
    if (memmem(body, payload, "\"error\"", 7)) fail("the consumer was not made");
    consumer_made = true;
  } else {
    note_stamps(SUBSCRIBER, body, body + payload, at);
  }
  return length + payload + 2;
}

static void read_broker(void) {
  ssize_t got = recv(broker, told + told_size, sizeof told - told_size, 0);
  uint64_t at = now();
  errno = got < 0 ? errno : 0;
  if (got <= 0) fail("the broker ended the connection");
  told_size += (size_t)got;
  size_t taken = 0, size;
  while ((size = take_line(told + taken, told_size - taken, at))) taken += size;
  told_size -= taken;
  memmove(told, told + taken, told_size);
}

/* -- The start, and the end ------------------------------------------------------------------------------------- */

static void tell(const char *what) {
  puts(what);
  fflush(stdout);
}

static void obey(const char *path) {
  if (read(STDIN_FILENO, buffer, sizeof buffer) <= 0) exit(0);
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(records, sizeof *records, record_count, file) != record_count || fclose(file)) fail(path);
  tell("written");
}

static void serve(const char *records_path) {
  struct epoll_event events[EVENTS_AT_ONCE];
  int ready = epoll_wait(poller, events, EVENTS_AT_ONCE, -1);
  if (ready < 0 && errno != EINTR) fail("epoll_wait");
  for (int each = 0; each < ready; each++) {
    uint32_t who = events[each].data.u32;
    if (who == SUBSCRIBER)
      read_broker();
    else if (who == COMMANDS)
      obey(records_path);
    else
      read_stream(who);
  }
}

int main(int argc, char **argv) {
  if (argc != 6) {
    fprintf(stderr, "usage: arrivals PORT REQUESTS NATS_PORT PASSWORD RECORDS\n");
    return 2;
  }
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  poller = epoll_create1(EPOLL_CLOEXEC);
  if (poller < 0) fail("epoll_create1");
  watch(STDIN_FILENO, COMMANDS);
  subscribe(atoi(argv[3]), argv[4]);
  open_streams(atoi(argv[1]), argv[2], argv[5]);
  while (!consumer_made || begun_count < stream_count) serve(argv[5]);
  tell("ready");
  for (;;) serve(argv[5]);
}
