/* The load generator: very many clients of event streams in one process, at a fraction of what they cost a server.
 *
 *     sink HOST PORT REQUESTS PAUSE TIMED
 *
 * REQUESTS is a file of whole GET requests, one after the other; each connection sends the next one, and after the last
 * one comes the first again. With a PAUSE (microseconds) it sleeps so long between two looks at what has come. Without
 * one it is woken by what comes, and then the sender pays for that: on the same machine up to a quarter of a send().
 * Latencies are taken at every TIMED-th connection: 1 is all of them.
 *
 * It is steered by lines on standard input, and answers each with a line of JSON:
 *
 *     open COUNT RATE AT_ONCE [stalled]   COUNT more connections, RATE a second (0: no limit), no more than AT_ONCE of
 *                                         them without their first event. With `stalled` they read no further than
 *                                         that, with a receive buffer of 4 KiB.
 *     resume                              the stalled ones read again
 *     reset                               what was counted of events, bytes and times begins anew
 *     stat                                the counts
 *     segments                            the same, and how many segments with data came for each stream since the last
 *                                         reset: as many as the server wrote, unless it wrote more than 64 KiB at once
 *     close                               reset all connections (RST: no port is kept in TIME_WAIT)
 *     quit
 *
 * An event is a block with data: the field's name at the start of a line is what is counted, wherever a chunk or a read
 * ends, so that heartbeats don't count. An event that contains `:"t<digits>"` says when it was published, in nanoseconds
 * of CLOCK_MONOTONIC; from that comes its latency.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <stdbool.h>
#include <stddef.h>
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

/* Every so-manieth stream is asked for its segments. */
enum { ASKED_FOR_SEGMENTS = 16 };
enum { EVENTS_AT_ONCE = 1024, READ_BYTES = 256 * 1024, CARRY = 40, SMALL_BUFFER = 4096 };

#define DATA_FIELD "\ndata: "
#define STAMP ":\"t"

/* Told once for what has come, not again until it was read: that spares the kernel a second look at each. */
#define TOLD_ONCE (EPOLLIN | EPOLLRDHUP | EPOLLET)

enum state { CONNECTING, WAITING, OPEN, CLOSED };

struct client {
  int fd;
  enum state state;
  bool stalls, reads, counted_first;
  uint8_t carried;
  uint64_t began, events;
  uint32_t segments; /* at the last reset */
  size_t request, sent, request_size;
  char carry[CARRY]; /* the end of what was read, where a field's name may have begun */
};

/* -- A histogram of durations, exact to one part in 64 ---------------------------------------------------------- */

enum { SUB_BITS = 6, SUB = 1 << SUB_BITS, BUCKETS = 64 * SUB };

struct histogram {
  uint64_t count, most, buckets[BUCKETS];
};

static int bucket_of(uint64_t value) {
  if (value < SUB) return (int)value;
  int shift = 63 - __builtin_clzll(value) - SUB_BITS;
  return (shift + 1) * SUB + (int)((value >> shift) - SUB);
}

static uint64_t middle_of(int bucket) {
  if (bucket < SUB) return (uint64_t)bucket;
  int shift = bucket / SUB - 1;
  return ((uint64_t)(SUB + bucket % SUB) << shift) + ((1ULL << shift) >> 1);
}

static void note(struct histogram *of, uint64_t value) {
  of->count++;
  of->buckets[bucket_of(value)]++;
  if (value > of->most) of->most = value;
}

static uint64_t quantile(const struct histogram *of, double share) {
  uint64_t wanted = (uint64_t)(share * (double)of->count), seen = 0;
  for (int bucket = 0; bucket < BUCKETS; bucket++) {
    seen += of->buckets[bucket];
    if (seen > wanted) {
      uint64_t value = middle_of(bucket);
      return value < of->most ? value : of->most;
    }
  }
  return of->most;
}

/* -- Everything there is ---------------------------------------------------------------------------------------- */

static struct sockaddr_in server;
static const char *requests;
static size_t requests_size, next_request;
static int poller;
static struct client *clients;
static size_t made, room, timed;
static char *buffer;

static struct { uint64_t to_open, rate, at_once, began, opened; bool stalled; } opening;
static struct {
  uint64_t connecting, waiting, open, refused, ended, failed, stalled, without_event;
  uint64_t bytes, events, first_head_ns, last_head_ns, last_event_ns;
} counts;
static struct histogram latency, first_event;

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000ULL + (uint64_t)time.tv_nsec;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

/* -- Connections ------------------------------------------------------------------------------------------------ */

static void watch(size_t index, uint32_t events, int operation) {
  struct epoll_event event = {.events = events, .data.u64 = index};
  if (epoll_ctl(poller, operation, clients[index].fd, &event) < 0) die("epoll_ctl");
}

static void shut(struct client *client, uint64_t *reason) {
  struct linger linger = {.l_onoff = 1, .l_linger = 0};
  setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
  close(client->fd);
  if (client->state == CONNECTING) counts.connecting--;
  if (client->state == WAITING) counts.waiting--;
  if (client->state == OPEN) counts.open--;
  if (client->state == OPEN && client->stalls && !client->reads) counts.stalled--;
  if (!client->counted_first) counts.without_event--;
  client->counted_first = true;
  client->state = CLOSED;
  if (reason) ++*reason;
}

static void send_request(size_t index) {
  struct client *client = &clients[index];
  while (client->sent < client->request_size) {
    ssize_t sent = send(client->fd, requests + client->request + client->sent, client->request_size - client->sent,
                        MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN) return;
    if (sent < 0) return shut(client, &counts.failed);
    client->sent += (size_t)sent;
  }
  watch(index, client->stalls ? EPOLLIN : TOLD_ONCE, EPOLL_CTL_MOD);
}

static void open_one(void) {
  if (made == room) {
    room = room ? 2 * room : 1024;
    clients = realloc(clients, room * sizeof *clients);
    if (!clients) die("realloc");
  }
  size_t index = made++;
  struct client *client = &clients[index];
  memset(client, 0, sizeof *client);
  client->request = next_request;
  const char *end = memmem(requests + next_request, requests_size - next_request, "\r\n\r\n", 4);
  if (!end) {
    fprintf(stderr, "sink: the last request has no end\n");
    exit(1);
  }
  client->request_size = (size_t)(end + 4 - requests) - next_request;
  next_request += client->request_size;
  if (next_request == requests_size) next_request = 0;
  client->began = now();
  client->state = CONNECTING;
  client->stalls = opening.stalled;
  client->reads = true;
  counts.connecting++;
  counts.without_event++;
  client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (client->fd < 0) die("socket");
  int small = SMALL_BUFFER;
  if (client->stalls) setsockopt(client->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  if (connect(client->fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS) {
    counts.failed++;
    counts.connecting--;
    counts.without_event--;
    client->counted_first = true;
    client->state = CLOSED;
    close(client->fd);
    return;
  }
  watch(index, EPOLLOUT, EPOLL_CTL_ADD);
}

static int open_more(void) {
  /* Returns the milliseconds until there is more to open, -1 if that is for something else to say. */
  while (opening.to_open) {
    if (counts.without_event >= opening.at_once) return -1;
    if (opening.rate) {
      uint64_t due = (now() - opening.began) * opening.rate / 1000000000ULL;
      if (opening.opened >= due) return 1;
    }
    opening.to_open--;
    opening.opened++;
    open_one();
  }
  return -1;
}

/* -- What is read ----------------------------------------------------------------------------------------------- */

static void note_latencies(const char *from, const char *end, const char *fresh, uint64_t at) {
  while ((from = memmem(from, (size_t)(end - from), STAMP, sizeof STAMP - 1))) {
    uint64_t stamp = 0;
    const char *digit = from + sizeof STAMP - 1;
    while (digit < end && *digit >= '0' && *digit <= '9') stamp = stamp * 10 + (uint64_t)(*digit++ - '0');
    if (digit == end) return; /* it comes again, in front of what is read next */
    /* Only what ends in what was just read: what was carried over has been noted. */
    if (*digit == '"' && digit >= fresh && digit - from > 10 && stamp <= at) note(&latency, at - stamp);
    from = digit;
  }
}

typedef int8_t vector __attribute__((vector_size(32), aligned(1), may_alias));

static uint64_t count_in_vectors(const char **from, const char *last) {
  /* 32 places at a time, as many as there are before `last`: 300 bytes in 20 ns. */
  uint64_t found = 0;
  while (last - *from >= (ptrdiff_t)sizeof(vector)) {
    vector counted = {0};
    for (int each = 0; each < 127 && last - *from >= (ptrdiff_t)sizeof(vector); each++, *from += sizeof(vector)) {
      const char *at = *from;
      /* Each comparison gives -1 where it holds. No other line of a stream begins so; "date:" in the head nearly does. */
      counted -= (*(const vector *)at == DATA_FIELD[0]) & (*(const vector *)(at + 1) == DATA_FIELD[1]) &
                 (*(const vector *)(at + 4) == DATA_FIELD[4]) & (*(const vector *)(at + 5) == DATA_FIELD[5]);
    }
    for (size_t each = 0; each < sizeof(vector); each++) found += (uint64_t)counted[each];
  }
  return found;
}

static uint64_t count_events(const char *from, const char *end, const char *fresh) {
  const ptrdiff_t length = sizeof DATA_FIELD - 1;
  if (fresh - from >= length) from = fresh - length + 1; /* what ends before `fresh` has been counted */
  const char *last = end - length + 1;                   /* no field begins here or later */
  uint64_t found = count_in_vectors(&from, last);
  for (; from < last; from++) found += !memcmp(from, DATA_FIELD, (size_t)length);
  return found;
}

static void take(struct client *client, char *fresh, size_t size, uint64_t at) {
  /* `fresh` has CARRY bytes of room before it. */
  if (client->state == WAITING) {
    if (size >= 12 && memcmp(fresh + 9, "200", 3)) return shut(client, &counts.refused);
    client->state = OPEN;
    counts.waiting--;
    counts.open++;
    if (!counts.first_head_ns) counts.first_head_ns = at;
    counts.last_head_ns = at;
  }
  char *from = fresh - client->carried, *end = fresh + size;
  memcpy(from, client->carry, client->carried);
  uint64_t found = count_events(from, end, fresh);
  if ((size_t)(client - clients) % timed == 0) note_latencies(from, end, fresh, at);
  counts.bytes += size;
  if (found) {
    counts.events += found;
    client->events += found;
    counts.last_event_ns = at;
    if (!client->counted_first) {
      client->counted_first = true;
      counts.without_event--;
      note(&first_event, at - client->began);
    }
  }
  size_t kept = (size_t)(end - from);
  client->carried = (uint8_t)(kept < CARRY ? kept : CARRY);
  memcpy(client->carry, end - client->carried, client->carried);
}

static void read_from(size_t index, bool to_the_end) {
  struct client *client = &clients[index];
  const size_t most = client->stalls ? 1024 : READ_BYTES;
  ssize_t size;
  do {
    size = recv(client->fd, buffer + CARRY, most, 0);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) return shut(client, client->state == OPEN ? &counts.ended : &counts.failed);
    take(client, buffer + CARRY, (size_t)size, now());
    if (client->state == CLOSED) return;
    if (client->stalls && client->events) {
      client->reads = false;
      counts.stalled++;
      return watch(index, 0, EPOLL_CTL_MOD);
    }
  } while (to_the_end || (size_t)size == most);
}

static void serve(size_t index, uint32_t events) {
  struct client *client = &clients[index];
  if (client->state == CLOSED) return;
  if (client->state == CONNECTING && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) return shut(client, &counts.failed);
    client->state = WAITING;
    counts.connecting--;
    counts.waiting++;
    return send_request(index);
  }
  if (client->state == WAITING && client->sent < client->request_size) return send_request(index);
  if (!client->reads) { /* a stalled one, of which only an end is reported */
    if (events & (EPOLLERR | EPOLLHUP)) shut(client, &counts.ended);
    return;
  }
  read_from(index, (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0);
}

/* -- Commands --------------------------------------------------------------------------------------------------- */

static uint32_t segments_of(const struct client *client) {
  struct tcp_info info = {0};
  socklen_t size = sizeof info;
  getsockopt(client->fd, IPPROTO_TCP, TCP_INFO, &info, &size);
  return info.tcpi_data_segs_in;
}

static double segments_each(void) {
  uint64_t came = 0, streams = 0;
  for (size_t index = 0; index < made; index += ASKED_FOR_SEGMENTS) {
    if (clients[index].state != OPEN) continue;
    came += segments_of(&clients[index]) - clients[index].segments;
    streams++;
  }
  return streams ? (double)came / (double)streams : 0;
}

static void reset(void) {
  for (size_t index = 0; index < made; index++) {
    clients[index].events = 0;
    if (index % ASKED_FOR_SEGMENTS == 0 && clients[index].state == OPEN)
      clients[index].segments = segments_of(&clients[index]);
  }
  counts.bytes = counts.events = counts.first_head_ns = counts.last_head_ns = counts.last_event_ns = 0;
  memset(&latency, 0, sizeof latency);
  memset(&first_event, 0, sizeof first_event);
}

static void print_histogram(const char *name, const struct histogram *of) {
  printf(",\"%s\":{\"count\":%lu,\"p50_ns\":%lu,\"p99_ns\":%lu,\"p999_ns\":%lu,\"max_ns\":%lu}", name, of->count,
         quantile(of, 0.5), quantile(of, 0.99), quantile(of, 0.999), of->most);
}

static void stat_line(double segments) {
  uint64_t least = UINT64_MAX, most = 0;
  for (size_t index = 0; index < made; index++) {
    const struct client *client = &clients[index];
    if (client->state != OPEN || !client->reads) continue;
    if (client->events < least) least = client->events;
    if (client->events > most) most = client->events;
  }
  printf("{\"now_ns\":%lu,\"to_open\":%lu,\"connecting\":%lu,\"waiting\":%lu,\"open\":%lu,\"stalled\":%lu,"
         "\"without_event\":%lu,\"refused\":%lu,\"ended\":%lu,\"failed\":%lu,\"bytes\":%lu,\"events\":%lu,"
         "\"min_events\":%lu,\"max_events\":%lu,\"began_ns\":%lu,\"first_head_ns\":%lu,\"last_head_ns\":%lu,"
         "\"last_event_ns\":%lu,\"segments\":%.3f",
         now(), opening.to_open, counts.connecting, counts.waiting, counts.open, counts.stalled, counts.without_event,
         counts.refused, counts.ended, counts.failed, counts.bytes, counts.events, least == UINT64_MAX ? 0 : least, most,
         opening.began, counts.first_head_ns, counts.last_head_ns, counts.last_event_ns, segments);
  print_histogram("latency", &latency);
  print_histogram("first_event", &first_event);
  printf("}\n");
}

static void close_all(void) {
  for (size_t index = 0; index < made; index++)
    if (clients[index].state != CLOSED) shut(&clients[index], NULL);
  made = 0;
  opening.to_open = 0;
  counts.refused = counts.ended = counts.failed = 0;
  next_request = 0;
}

static void resume(void) {
  for (size_t index = 0; index < made; index++) {
    struct client *client = &clients[index];
    if (client->state == CLOSED || !client->stalls) continue;
    if (!client->reads) {
      counts.stalled--;
      client->reads = true;
    }
    client->stalls = false;
    watch(index, TOLD_ONCE, EPOLL_CTL_MOD);
  }
}

static void obey(const char *line) {
  unsigned long count, rate, at_once;
  double segments = 0;
  if (sscanf(line, "open %lu %lu %lu", &count, &rate, &at_once) == 3) {
    opening.to_open = count;
    opening.rate = rate;
    opening.at_once = at_once;
    opening.opened = 0;
    opening.stalled = strstr(line, "stalled") != NULL;
    opening.began = now();
    counts.refused = counts.ended = counts.failed = 0;
  } else if (!strcmp(line, "segments")) {
    segments = segments_each();
  } else if (!strcmp(line, "reset")) {
    reset();
  } else if (!strcmp(line, "resume")) {
    resume();
  } else if (!strcmp(line, "close")) {
    close_all();
  } else if (!strcmp(line, "quit")) {
    exit(0);
  } else if (strcmp(line, "stat")) {
    fprintf(stderr, "sink: not understood: %s\n", line);
    exit(1);
  }
  stat_line(segments);
}

static void read_commands(void) {
  static char waiting[4096];
  static size_t size;
  ssize_t got = read(STDIN_FILENO, waiting + size, sizeof waiting - 1 - size);
  if (got <= 0) exit(0);
  size += (size_t)got;
  waiting[size] = 0;
  char *line = waiting, *end;
  while ((end = strchr(line, '\n'))) {
    *end = 0;
    obey(line);
    line = end + 1;
  }
  size = strlen(line);
  memmove(waiting, line, size + 1);
}

/* -- The start -------------------------------------------------------------------------------------------------- */

static void map_requests(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat found;
  if (fd < 0 || fstat(fd, &found) < 0 || !found.st_size) die(path);
  requests_size = (size_t)found.st_size;
  requests = mmap(NULL, requests_size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (requests == MAP_FAILED) die("mmap");
  close(fd);
}

int main(int argc, char **argv) {
  if (argc != 6 || (timed = strtoul(argv[5], NULL, 10)) < 1) {
    fprintf(stderr, "usage: sink HOST PORT REQUESTS PAUSE TIMED\n");
    return 2;
  }
  server.sin_family = AF_INET;
  server.sin_port = htons((uint16_t)atoi(argv[2]));
  if (inet_pton(AF_INET, argv[1], &server.sin_addr) != 1) die(argv[1]);
  map_requests(argv[3]);
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  setvbuf(stdout, NULL, _IOLBF, 0);
  buffer = malloc(CARRY + READ_BYTES);
  poller = epoll_create1(EPOLL_CLOEXEC);
  if (!buffer || poller < 0) die("start");
  struct epoll_event commands = {.events = EPOLLIN, .data.u64 = UINT64_MAX};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &commands) < 0) die("stdin");
  const long pause_ns = atol(argv[4]) * 1000;
  static struct epoll_event events[EVENTS_AT_ONCE];
  int ready = 0;
  for (;;) {
    int wait_ms = open_more();
    if (pause_ns && ready < EVENTS_AT_ONCE) nanosleep(&(struct timespec){.tv_nsec = pause_ns}, NULL);
    ready = epoll_wait(poller, events, EVENTS_AT_ONCE, pause_ns ? 0 : wait_ms);
    if (ready < 0 && errno != EINTR) die("epoll_wait");
    bool asked = false;
    for (int each = 0; each < ready; each++) {
      if (events[each].data.u64 == UINT64_MAX)
        asked = true;
      else
        serve((size_t)events[each].data.u64, events[each].events);
    }
    if (asked) read_commands(); /* last, since it may close what `events` speaks of */
  }
}
