// What the scenarios share. A scenario is two functions, one for each end of a connection; both
// ends write what they see to a record of their own, which must be the same with inlay and without.
//
// What is recorded must not depend on time: how much one non-blocking send takes is not recorded,
// what arrives in the end is. The ends agree on the order of things over meet(), a socket of
// AF_UNIX that inlay has no business with.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>

namespace behaviour {

// The server gets its listener, the client the server's port. An end that is null does nothing.
struct Scenario {
  const char *name;
  void (*server)(int listener);
  void (*client)(std::uint16_t port);
  Scenario *next;
  Scenario(const char *called, void (*server_end)(int), void (*client_end)(std::uint16_t));
};

// What a process goes on with in an image of this program that it executes: `run` gets the number of
// a descriptor.
struct Continuation {
  const char *name;
  void (*run)(int fd);
  Continuation *next;
  Continuation(const char *called, void (*go_on)(int fd));
};
// Path and arguments for it. The record and meet() stay with the next image.
class Then {
 public:
  Then(const char *name, int fd);
  const char *path() const { return "/proc/self/exe"; }
  char *const *arguments() { return arguments_; }

 private:
  char number_[12];
  char *arguments_[5];
};

// --- the record ---------------------------------------------------------------------------------

// "what = value", or the name of errno after -1. Preserves errno.
void note(std::string_view what, long value);
// "what: text".
void say(std::string_view what, std::string_view text);
// Further lines of this process or thread are compared apart from others', whose order they do not
// share.
void call_myself(const char *name);

// --- the two ends -------------------------------------------------------------------------------

// Waits until the other end is at its next meet() too.
void meet();
// A number for the other end, and the one it told.
void tell(std::uint64_t number);
std::uint64_t told();

// --- sockets ------------------------------------------------------------------------------------

// A connected socket; ends the process when it cannot be had.
int dial(std::uint16_t port);
int dial(std::uint16_t port, int type_flags);
int take(int listener);
sockaddr_in address_of(std::uint16_t port);
// A listener of 127.0.0.1 and its port.
int listen_anywhere(std::uint16_t *port);
void make_nonblocking(int fd);
// The events poll() reports, having waited for one of `events`.
int wait_for(int fd, short events);

// --- threads ------------------------------------------------------------------------------------

// Until the thread with that id, once it is set, sleeps in a call: /proc says so.
void await_asleep(const std::atomic<int> &thread);

// A thread with a name of its own in the record, and whether it sleeps in the kernel.
class Worker {
 public:
  template <typename Work>
  Worker(const char *name, Work work)
      : thread_([this, name, work] {
          call_myself(name);
          id_ = gettid();
          work();
        }) {}
  void await_blocked() { await_asleep(id_); }
  pthread_t handle() { return thread_.native_handle(); }
  void join() { thread_.join(); }

 private:
  std::atomic<int> id_{0};
  std::thread thread_;
};

// SIGALRM for the thread that makes it, once it sleeps in a call: not on the way there, and not
// while the call is at work.
class Bell {
 public:
  Bell()
      : sleeper_(gettid()), thread_([this, sleeper = pthread_self()] {
          await_asleep(sleeper_);
          pthread_kill(sleeper, SIGALRM);
        }) {}
  ~Bell() { thread_.join(); }
  Bell(const Bell &) = delete;
  Bell &operator=(const Bell &) = delete;

 private:
  const std::atomic<int> sleeper_;
  std::thread thread_;
};

// --- descriptors in messages ---------------------------------------------------------------------

bool pass(int to, int fd);
// -1 when none came.
int unpack(int from, int flags);

// --- data ---------------------------------------------------------------------------------------

// Bytes that tell where in the stream they are.
std::string pattern(std::size_t length, unsigned seed = 0);
// Sends all of it with blocking sends; false when one fails.
bool send_all(int fd, std::string_view bytes, int flags = 0);
// Receives exactly `length` bytes unless the stream ends.
std::string receive_exactly(int fd, std::size_t length);
// Waits until `length` bytes can be looked at.
void await_queued(int fd, std::size_t length);
// Reads `piece` bytes at a time until the end or an error, and records the length, a digest and how
// the stream ended.
void note_rest(int fd, std::size_t piece = 65536);
void note_data(std::string_view what, std::string_view bytes);

}  // namespace behaviour
