// Several threads on one socket; cancellation; signals.
#include <atomic>

#include "behaviour.h"

using namespace behaviour;

namespace {

struct Job {
  int fd;
  const char *name;
};

pthread_t start(void *(*run)(void *), Job *job) {
  pthread_t thread;
  if (pthread_create(&thread, nullptr, run, job) != 0) _exit(95);
  return thread;
}

std::atomic<int> g_thread{0};

void echo_all(int listener) {
  int fd = take(listener);
  char buffer[10000];
  ssize_t got;
  std::size_t total = 0;
  while ((got = recv(fd, buffer, sizeof(buffer), 0)) > 0) {
    if (!send_all(fd, {buffer, static_cast<std::size_t>(got)})) break;
    total += static_cast<std::size_t>(got);
  }
  note("echoed", static_cast<long>(total));
}

Scenario duplex{"threads/reader-and-writer", echo_all, [](std::uint16_t port) {
                  Job job{dial(port), "writer"};
                  pthread_t writer = start(
                      [](void *argument) -> void * {
                        auto *mine = static_cast<Job *>(argument);
                        call_myself("writer");
                        note("sent", send_all(mine->fd, pattern(3'000'000)));
                        note("shutdown", shutdown(mine->fd, SHUT_WR));
                        return nullptr;
                      },
                      &job);
                  note_rest(job.fd);
                  pthread_join(writer, nullptr);
                }};

Scenario many_writers{
    "threads/four-writers",
    [](int listener) {
      int fd = take(listener);
      std::string all = receive_exactly(fd, 4 * 200 * 64);
      int count[4] = {};
      bool whole = true;
      for (std::size_t at = 0; at + 64 <= all.size(); at += 64) {
        int who = all[at] - 'a';
        if (who < 0 || who > 3 || all.substr(at, 64) != std::string(64, all[at])) {
          whole = false;
          break;
        }
        ++count[who];
      }
      note("messages whole", whole);
      for (int one : count) note("count", one);
      note_rest(fd);
    },
    [](std::uint16_t port) {
      int fd = dial(port);
      Job jobs[4] = {{fd, "a"}, {fd, "b"}, {fd, "c"}, {fd, "d"}};
      pthread_t threads[4];
      for (int i = 0; i < 4; ++i) {
        threads[i] = start(
            [](void *argument) -> void * {
              auto *mine = static_cast<Job *>(argument);
              std::string text(64, mine->name[0]);
              for (int n = 0; n < 200; ++n) send_all(mine->fd, text);
              return nullptr;
            },
            &jobs[i]);
      }
      for (pthread_t thread : threads) pthread_join(thread, nullptr);
    }};

void *receive_in_thread(void *argument) {
  auto *mine = static_cast<Job *>(argument);
  call_myself(mine->name);
  g_thread = gettid();
  char c = 0;
  note("recv", recv(mine->fd, &c, 1, 0));
  note("got", c);
  return nullptr;
}

Scenario cancel_recv{"threads/cancelled-in-recv",
                     [](int listener) {
                       int fd = take(listener);
                       note_data("hello", receive_exactly(fd, 5));
                       send_all(fd, "!");
                       meet();
                       send_all(fd, "after");
                       note_rest(fd);
                     },
                     [](std::uint16_t port) {
                       Job job{dial(port), "reader"};
                       send_all(job.fd, "hello");
                       receive_exactly(job.fd, 1);
                       pthread_t reader = start(receive_in_thread, &job);
                       await_asleep(g_thread);
                       note("cancel", pthread_cancel(reader));
                       void *result = nullptr;
                       note("join", pthread_join(reader, &result));
                       note("cancelled", result == PTHREAD_CANCELED);
                       meet();
                       note_data("goes on", receive_exactly(job.fd, 5));
                       note("send", send(job.fd, "bye", 3, 0));
                       note("close", close(job.fd));
                     }};

// Has something to undo while it waits, as a thread of a C++ program does.
void *accept_in_thread(void *argument) {
  struct Undo {
    ~Undo() { note("undone", true); }
  } undo;
  auto *mine = static_cast<Job *>(argument);
  call_myself(mine->name);
  g_thread = gettid();
  int fd = accept(mine->fd, nullptr, nullptr);
  int type = -1;
  pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
  note("accepted", fd >= 0);
  note("deferred", type == PTHREAD_CANCEL_DEFERRED);
  close(fd);
  return nullptr;
}

Scenario cancel_accept{"threads/cancelled-in-accept",
                       [](int listener) {
                         std::uint16_t port = 0;
                         Job job{listen_anywhere(&port), "acceptor"};
                         pthread_t acceptor = start(accept_in_thread, &job);
                         await_asleep(g_thread);
                         note("cancel", pthread_cancel(acceptor));
                         void *result = nullptr;
                         note("join", pthread_join(acceptor, &result));
                         note("cancelled", result == PTHREAD_CANCELED);
                         job.fd = listener;
                         meet();
                         acceptor = start(accept_in_thread, &job);
                         note("join", pthread_join(acceptor, &result));
                         note("cancelled", result == PTHREAD_CANCELED);
                       },
                       [](std::uint16_t port) {
                         meet();
                         int fd = dial(port);
                         note("close", close(fd));
                       }};

Scenario cancel_early{"threads/cancelled-before-the-handshake-is-over",
                      [](int listener) {
                        meet();
                        int fd = take(listener);
                        note_data("heard", receive_exactly(fd, 5));
                        send_all(fd, "after");
                      },
                      [](std::uint16_t port) {
                        Job job{dial(port), "reader"};
                        pthread_t reader = start(receive_in_thread, &job);
                        await_asleep(g_thread);
                        note("cancel", pthread_cancel(reader));
                        void *result = nullptr;
                        note("join", pthread_join(reader, &result));
                        note("cancelled", result == PTHREAD_CANCELED);
                        meet();
                        note("send", send(job.fd, "hello", 5, 0));
                        note_data("answer", receive_exactly(job.fd, 5));
                      }};

Scenario cancel_send{"threads/cancelled-in-send",
                     [](int listener) {
                       int fd = take(listener);
                       receive_exactly(fd, 5);
                       send_all(fd, "!");
                       meet();
                       // What one send was cut off from is its own affair; that it goes on is not.
                       std::string all;
                       char buffer[65536];
                       ssize_t got;
                       while ((got = recv(fd, buffer, sizeof(buffer), 0)) > 0) {
                         all.append(buffer, static_cast<std::size_t>(got));
                       }
                       note("orderly end", got);
                       note("ends with", all.size() > 4 && all.substr(all.size() - 4) == "last");
                     },
                     [](std::uint16_t port) {
                       Job job{dial(port), "writer"};
                       send_all(job.fd, "hello");
                       receive_exactly(job.fd, 1);
                       pthread_t writer = start(
                           [](void *argument) -> void * {
                             auto *mine = static_cast<Job *>(argument);
                             call_myself("writer");
                             std::string bytes = pattern(64 << 20);
                             g_thread = gettid();
                             send(mine->fd, bytes.data(), bytes.size(), 0);
                             note("not reached", 1);
                             return nullptr;
                           },
                           &job);
                       await_asleep(g_thread);
                       note("cancel", pthread_cancel(writer));
                       void *result = nullptr;
                       note("join", pthread_join(writer, &result));
                       note("cancelled", result == PTHREAD_CANCELED);
                       meet();
                       note("goes on", send_all(job.fd, "last"));
                       note("close", close(job.fd));
                     }};

Scenario shut_under{"threads/shut-down-while-receiving",
                    [](int listener) {
                      int fd = take(listener);
                      note_data("hello", receive_exactly(fd, 5));
                      send_all(fd, "!");
                      note_rest(fd);
                    },
                    [](std::uint16_t port) {
                      Job job{dial(port), "reader"};
                      send_all(job.fd, "hello");
                      receive_exactly(job.fd, 1);
                      pthread_t reader = start(receive_in_thread, &job);
                      await_asleep(g_thread);
                      note("shutdown", shutdown(job.fd, SHUT_RDWR));
                      pthread_join(reader, nullptr);
                    }};

// --- signals ------------------------------------------------------------------------------------

std::atomic<int> g_signals{0};
int g_tell_at = 0;

void on_signal(int) {
  int saved = errno;
  if (++g_signals == g_tell_at) tell(0);
  errno = saved;
}

void ring(bool restart) {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = restart ? SA_RESTART : 0;
  sigaction(SIGALRM, &action, nullptr);
  itimerval every{{0, 20000}, {0, 20000}};
  setitimer(ITIMER_REAL, &every, nullptr);
}
void silence() {
  itimerval never{};
  setitimer(ITIMER_REAL, &never, nullptr);
}

Scenario interrupted{"signals/interrupted-recv",
                     [](int listener) {
                       int fd = take(listener);
                       receive_exactly(fd, 5);
                       send_all(fd, "!");
                       told();
                       send_all(fd, "x");
                       note_rest(fd);
                     },
                     [](std::uint16_t port) {
                       int fd = dial(port);
                       send_all(fd, "hello");
                       receive_exactly(fd, 1);
                       char c;
                       ring(false);
                       note("recv", recv(fd, &c, 1, 0));
                       silence();
                       g_tell_at = g_signals + 3;
                       ring(true);
                       note("restarted", recv(fd, &c, 1, 0));
                       silence();
                       note("signals came", g_signals >= 4);
                     }};

Scenario interrupted_early{"signals/interrupted-before-accept",
                           [](int listener) {
                             told();
                             int fd = take(listener);
                             note_data("heard", receive_exactly(fd, 3));
                             send_all(fd, "x");
                           },
                           [](std::uint16_t port) {
                             int fd = dial(port);
                             send_all(fd, "abc");
                             char c;
                             ring(false);
                             note("recv", recv(fd, &c, 1, 0));
                             silence();
                             g_tell_at = g_signals + 3;
                             ring(true);
                             note("restarted", recv(fd, &c, 1, 0));
                             silence();
                           }};

Scenario interrupted_send{
    "signals/interrupted-send",
    [](int listener) {
      int fd = take(listener);
      receive_exactly(fd, 5);
      send_all(fd, "!");
      std::uint64_t expected = told();
      std::string all = receive_exactly(fd, expected);
      note("all of it", all == pattern(expected));
      note_rest(fd);
    },
    [](std::uint16_t port) {
      int fd = dial(port);
      send_all(fd, "hello");
      receive_exactly(fd, 1);
      std::string bytes = pattern(64 << 20);
      ring(false);
      std::size_t sent = 0;
      ssize_t got;
      while ((got = send(fd, bytes.data() + sent, bytes.size() - sent, 0)) > 0) {
        sent += static_cast<std::size_t>(got);
      }
      note("send", got);
      silence();
      tell(sent);
    }};

}  // namespace
