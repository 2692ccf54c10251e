// What a call on a descriptor costs that inlay has nothing to do with: the symbol the program is
// bound to and the C library's own, taken in turns within one process. Prints one line of JSON.
//
//   bench_unmanaged --pairs N
//
// A block is many calls, timed together; a pair is a block of each, in an order that alternates.
// The C library's function is measured against itself in the same way: what differs there is noise.
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

namespace {

struct Calls {
  decltype(&::read) read;
  decltype(&::write) write;
  decltype(&::close) close;
  decltype(&::dup) dup;
  decltype(&::recv) recv;
  decltype(&::epoll_ctl) epoll_ctl;
  decltype(&::epoll_wait) epoll_wait;
  decltype(&::fopen) fopen;
  decltype(&::fclose) fclose;
};

template <typename Function>
void take(void *library, const char *name, Function *into) {
  *into = reinterpret_cast<Function>(dlsym(library, name));
  if (*into == nullptr) {
    std::fprintf(stderr, "no %s\n", name);
    std::exit(1);
  }
}

Calls calls_of(void *library) {
  Calls found{};
  take(library, "read", &found.read);
  take(library, "write", &found.write);
  take(library, "close", &found.close);
  take(library, "dup", &found.dup);
  take(library, "recv", &found.recv);
  take(library, "epoll_ctl", &found.epoll_ctl);
  take(library, "epoll_wait", &found.epoll_wait);
  take(library, "fopen", &found.fopen);
  take(library, "fclose", &found.fclose);
  return found;
}

// What the blocks work on; filled again between blocks, outside the measurement.
int g_pipe[2], g_sockets[2], g_epoll, g_null;

constexpr int kBlock = 1000;
char g_bytes[kBlock];

struct Subject {
  const char *name;
  void (*prepare)();
  void (*block)(const Calls &calls);
};

const Subject kSubjects[] = {
    {"read, 1 byte of a pipe", [] { (void)!write(g_pipe[1], g_bytes, kBlock); },
     [](const Calls &calls) {
       char byte;
       for (int i = 0; i < kBlock; ++i) (void)!calls.read(g_pipe[0], &byte, 1);
     }},
    {"write, 1 byte to /dev/null", [] {},
     [](const Calls &calls) {
       for (int i = 0; i < kBlock; ++i) (void)!calls.write(g_null, g_bytes, 1);
     }},
    {"recv, 1 byte of AF_UNIX", [] { (void)!write(g_sockets[1], g_bytes, kBlock); },
     [](const Calls &calls) {
       char byte;
       for (int i = 0; i < kBlock; ++i) calls.recv(g_sockets[0], &byte, 1, 0);
     }},
    {"epoll_wait, one ready", [] {},
     [](const Calls &calls) {
       epoll_event event;
       for (int i = 0; i < kBlock; ++i) calls.epoll_wait(g_epoll, &event, 1, 0);
     }},
    {"epoll_ctl MOD", [] {},
     [](const Calls &calls) {
       epoll_event event{};
       event.events = EPOLLOUT;
       for (int i = 0; i < kBlock; ++i) calls.epoll_ctl(g_epoll, EPOLL_CTL_MOD, g_pipe[1], &event);
     }},
    {"open and close", [] {},
     [](const Calls &calls) {
       for (int i = 0; i < kBlock; ++i) calls.close(open("/dev/null", O_RDONLY));
     }},
    {"dup and close", [] {},
     [](const Calls &calls) {
       for (int i = 0; i < kBlock; ++i) calls.close(calls.dup(g_null));
     }},
    {"fopen and fclose", [] {},
     [](const Calls &calls) {
       for (int i = 0; i < kBlock; ++i) calls.fclose(calls.fopen("/dev/null", "r"));
     }},
};

double nanoseconds(const Subject &subject, const Calls &calls) {
  subject.prepare();
  timespec begin{}, end{};
  clock_gettime(CLOCK_MONOTONIC, &begin);
  subject.block(calls);
  clock_gettime(CLOCK_MONOTONIC, &end);
  return (static_cast<double>(end.tv_sec - begin.tv_sec) * 1e9 +
          static_cast<double>(end.tv_nsec - begin.tv_nsec)) /
         kBlock;
}

double quantile(std::vector<double> &values, double at) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(at * static_cast<double>(values.size() - 1))];
}

// One against the other: nanoseconds of each, and what the first has more, by pair.
std::string compare(const Subject &subject, const Calls &one, const Calls &other, int pairs) {
  std::vector<double> ones, others, more, ratios;
  for (int i = 0; i < pairs; ++i) {
    double first = nanoseconds(subject, i % 2 == 0 ? one : other);
    double second = nanoseconds(subject, i % 2 == 0 ? other : one);
    ones.push_back(i % 2 == 0 ? first : second);
    others.push_back(i % 2 == 0 ? second : first);
    more.push_back(ones.back() - others.back());
    ratios.push_back(ones.back() / others.back());
  }
  char text[256];
  std::snprintf(text, sizeof text,
                "{\"ns\": %.2f, \"libc_ns\": %.2f, \"more_ns\": [%.2f, %.2f, %.2f], "
                "\"ratio\": [%.4f, %.4f, %.4f]}",
                quantile(ones, 0.5), quantile(others, 0.5), quantile(more, 0.25),
                quantile(more, 0.5), quantile(more, 0.75), quantile(ratios, 0.25),
                quantile(ratios, 0.5), quantile(ratios, 0.75));
  return text;
}

// One processor: a migration costs more than a block.
void stay() {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<std::size_t>(sched_getcpu()), &set);
  sched_setaffinity(0, sizeof set, &set);
}

}  // namespace

int main(int argc, char **argv) {
  int pairs = argc == 3 && std::strcmp(argv[1], "--pairs") == 0 ? std::atoi(argv[2]) : 0;
  if (pairs < 1) {
    std::fputs("usage: bench_unmanaged --pairs N\n", stderr);
    return 2;
  }
  Calls bound = calls_of(RTLD_DEFAULT),
        libc = calls_of(dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD));
  stay();
  g_null = open("/dev/null", O_WRONLY);
  g_epoll = epoll_create1(0);
  if (pipe(g_pipe) != 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, g_sockets) != 0) return 1;
  epoll_event event{};
  event.events = EPOLLOUT;
  epoll_ctl(g_epoll, EPOLL_CTL_ADD, g_pipe[1], &event);
  std::string separator = "{";
  for (const Subject &subject : kSubjects) {
    compare(subject, bound, libc, 3);
    std::printf("%s\"%s\": {\"hooked\": %s, \"null\": %s}", separator.c_str(), subject.name,
                compare(subject, bound, libc, pairs).c_str(),
                compare(subject, libc, libc, pairs).c_str());
    separator = ", ";
  }
  std::puts("}");
  return 0;
}
