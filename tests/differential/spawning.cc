// posix_spawn and exec on a connection where the table of descriptors leaves little room, and with
// lists of actions that move it about.
#include <spawn.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <initializer_list>

#include "behaviour.h"

using namespace behaviour;

namespace {

void echo(int listener) {
  int fd = take(listener);
  char buffer[4096];
  for (ssize_t got; (got = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
    send_all(fd, {buffer, static_cast<std::size_t>(got)});
  }
}

bool ask(int fd, std::string_view question) {
  return send_all(fd, question) && receive_exactly(fd, question.size()) == question;
}

void note_status(pid_t child) {
  int status = -1;
  note("waitpid", waitpid(child, &status, 0) == child);
  note("status", status);
}

Continuation asks{"asks-in-the-image", [](int fd) {
                    call_myself("image");
                    note("asked", ask(fd, "by the image"));
                    for (int other : {0, 1, 3, 4, 5, 6, 30, 31, 32, 300}) {
                      sockaddr_storage address{};
                      socklen_t length = sizeof(address);
                      bool is_inet = getpeername(other, reinterpret_cast<sockaddr *>(&address),
                                                 &length) == 0 &&
                                     address.ss_family == AF_INET;
                      if (is_inet) note("connection", other);
                      if (is_inet) note("flags", fcntl(other, F_GETFD));
                    }
                    rlimit limit{};
                    getrlimit(RLIMIT_NOFILE, &limit);
                    note("limit", static_cast<long>(std::min<rlim_t>(limit.rlim_cur, 1u << 20)));
                  }};

class Actions {
 public:
  Actions() { posix_spawn_file_actions_init(&list_); }
  Actions &dup2(int fd, int to) {
    posix_spawn_file_actions_adddup2(&list_, fd, to);
    return *this;
  }
  Actions &close(int fd) {
    posix_spawn_file_actions_addclose(&list_, fd);
    return *this;
  }
  Actions &open(int fd) {
    posix_spawn_file_actions_addopen(&list_, fd, "/dev/null", O_RDWR, 0);
    return *this;
  }
  Actions &close_from(int fd) {
    posix_spawn_file_actions_addclosefrom_np(&list_, fd);
    return *this;
  }
  // An image that asks on `fd`.
  void run(int fd) {
    Then then("asks-in-the-image", fd);
    pid_t child = 0;
    int error = posix_spawn(&child, then.path(), &list_, nullptr, then.arguments(), environ);
    note("posix_spawn", error);
    if (error == 0) note_status(child);
  }

 private:
  posix_spawn_file_actions_t list_;
};

int dial_at(std::uint16_t port, int number, int flags = 0) {
  int fd = dial(port);
  if (fd != number) {
    dup3(fd, number, flags);
    close(fd);
  } else if (flags != 0) {
    fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  note("asked", ask(number, "before"));
  return number;
}

void limit_numbers(rlim_t below) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = below;
  note("setrlimit", setrlimit(RLIMIT_NOFILE, &limit));
}

Scenario above_limit{"spawning/a-number-above-the-limit", echo, [](std::uint16_t port) {
                       int fd = dial_at(port, 300);
                       limit_numbers(200);
                       Actions().run(300);
                       Actions().dup2(300, 30).run(30);
                       Actions().dup2(300, 30).close(300).run(30);
                       Actions().close(300).dup2(300, 30).run(30);
                       note("asked", ask(fd, "after"));
                     }};
Scenario above_limit_closing{"spawning/a-number-above-the-limit-close-on-exec", echo,
                             [](std::uint16_t port) {
                               int fd = dial_at(port, 300, O_CLOEXEC);
                               limit_numbers(200);
                               Actions().dup2(300, 30).run(30);
                               Actions().dup2(300, 300).run(300);
                               Actions().dup2(300, 1).dup2(1, 30).run(30);
                               note("asked", ask(fd, "after"));
                             }};
Scenario moved{"spawning/moved-about", echo, [](std::uint16_t port) {
                 int fd = dial_at(port, 30);
                 Actions().dup2(30, 31).dup2(31, 32).close(30).close(31).run(32);
                 Actions().close(31).dup2(30, 31).run(31);
                 Actions().dup2(30, 31).open(30).run(31);
                 Actions().open(31).dup2(30, 31).run(31);
                 Actions().dup2(30, 0).dup2(0, 1).close(30).run(0);
                 Actions().dup2(30, 30).run(30);
                 Actions().dup2(30, 3).close_from(4).run(3);
                 Actions().open(30).dup2(30, 31).run(31);
                 Actions().close(30).dup2(30, 31).run(31);
                 Actions one_by_one;
                 for (int i = 3; i < 1024; ++i) {
                   if (i != 30 && i != 6 && i != 5) one_by_one.close(i);
                 }
                 one_by_one.run(30);
                 note("asked", ask(fd, "after"));
               }};
Scenario moved_closing{"spawning/moved-about-close-on-exec", echo, [](std::uint16_t port) {
                         int fd = dial_at(port, 30, O_CLOEXEC);
                         Actions().dup2(30, 31).dup2(31, 32).run(32);
                         Actions().dup2(30, 30).run(30);
                         Actions().dup2(30, 0).dup2(0, 1).run(1);
                         Actions().dup2(30, 31).dup2(31, 30).run(30);
                         Actions().dup2(30, 0).dup2(0, 31).close(0).run(31);
                         note("flags", fcntl(30, F_GETFD));
                         note("asked", ask(fd, "after"));
                       }};

void fill_up() {
  limit_numbers(100);
  int last = -1;
  for (int fd; (fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;) last = fd;
  note("last", last);
}
Scenario full_spawn{"spawning/a-full-table", echo, [](std::uint16_t port) {
                      int fd = dial_at(port, 30);
                      fill_up();
                      Actions().run(30);
                      Actions().dup2(30, 0).run(0);
                      note("asked", ask(fd, "after"));
                    }};
Scenario full_exec{"spawning/a-full-table-and-exec", echo, [](std::uint16_t port) {
                     int fd = dial_at(port, 30);
                     fill_up();
                     Then then("asks-in-the-image", fd);
                     execv(then.path(), then.arguments());
                     note("execv", -1);
                   }};
Scenario full_fork{"spawning/a-full-table-and-vfork", echo, [](std::uint16_t port) {
                     int fd = dial_at(port, 30);
                     fill_up();
                     Then then("asks-in-the-image", fd);
                     pid_t child = vfork();
                     if (child == 0) {
                       execv(then.path(), then.arguments());
                       _exit(1);
                     }
                     note_status(child);
                     note("asked", ask(fd, "after"));
                   }};
Scenario exec_above{"spawning/exec-with-a-number-above-the-limit", echo, [](std::uint16_t port) {
                      int fd = dial_at(port, 300);
                      limit_numbers(200);
                      Then then("asks-in-the-image", fd);
                      execv(then.path(), then.arguments());
                      note("execv", -1);
                    }};

// A set of events goes over exec, with what it watches.
Continuation watches{"watches-on", [](int set) {
                       epoll_event event{};
                       note("asked", send_all(30, "question"));
                       note("epoll_wait", epoll_wait(set, &event, 1, -1));
                       note("its", static_cast<long>(event.data.u64));
                       note_data("answer", receive_exactly(30, 8));
                       event.events = EPOLLOUT;
                       note("EPOLL_CTL_MOD", epoll_ctl(set, EPOLL_CTL_MOD, 30, &event));
                       note("epoll_wait", epoll_wait(set, &event, 1, -1));
                       note("EPOLL_CTL_DEL", epoll_ctl(set, EPOLL_CTL_DEL, 30, nullptr));
                       note("epoll_wait", epoll_wait(set, &event, 1, 0));
                     }};
Scenario watched{"spawning/a-set-of-events-over-exec", echo, [](std::uint16_t port) {
                   int fd = dial_at(port, 30);
                   int set = epoll_create1(0);
                   epoll_event event{};
                   event.events = EPOLLIN;
                   event.data.u64 = 77;
                   note("EPOLL_CTL_ADD", epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
                   char missing[] = "/tmp";
                   char *arguments[] = {missing, nullptr};
                   note("execv", execv(missing, arguments));
                   Then then("watches-on", set);
                   execv(then.path(), then.arguments());
                   note("execv", -1);
                 }};

// exec that fails, with the connection as a standard stream too. Where that can be foreseen what is
// close-on-exec is not touched either.
Scenario fails{"spawning/exec-that-fails-in-every-way", echo, [](std::uint16_t port) {
                 int fd = dial_at(port, 30);
                 dup2(fd, 0);
                 dup3(fd, 31, O_CLOEXEC);
                 int last = 31;
                 auto look = [&](const char *what, int result) {
                   note(what, result);
                   for (int number : {0, 30, 31}) {
                     if (number > last) continue;
                     note("flags", fcntl(number, F_GETFD));
                     note("asked", ask(number, what));
                   }
                 };
                 char path[] = "/tmp/behaviour-XXXXXX";
                 int file = mkstemp(path);
                 char *plain[] = {path, nullptr};
                 std::string large(200000, 'x');
                 char *too_much[] = {large.data(), nullptr};
                 look("no permission", execv(path, plain));
                 look("a folder", execv("/tmp", plain));
                 look("E2BIG", execv("/bin/true", too_much));
                 look("E2BIG", execvp("true", too_much));
                 pid_t child = vfork();
                 if (child == 0) {
                   execv("/bin/true", too_much);
                   execv("/tmp", plain);
                   setenv("PATH", "/tmp:/etc:/bin", 1);
                   execlp("true", "true", nullptr);
                   _exit(1);
                 }
                 note_status(child);
                 look("after a vfork", 0);
                 note("close", close(last--));
                 auto contents = [&](std::string_view text) {
                   note("write", pwrite(file, text.data(), text.size(), 0));
                 };
                 fchmod(file, 0700);
                 contents("#!/nowhere/at/all\n");
                 look("ETXTBSY", execv(path, plain));
                 close(file);
                 look("ENOENT", execv(path, plain));
                 file = open(path, O_WRONLY | O_TRUNC);
                 contents("#!/etc/passwd\n");
                 close(file);
                 look("EACCES", execv(path, plain));
                 unlink(path);
               }};

// A different one on each of the standard streams, and more of them, with gaps, than one message
// has.
constexpr int kMany = 150;
int number_of(int i) { return i < 4 ? i : 10 + 2 * i; }
Continuation asks_each{"asks-on-each", [](int) {
                         call_myself("image");
                         int good = 0;
                         for (int i = 0; i < kMany; ++i) {
                           good += ask(number_of(i), "on number " + std::to_string(i));
                         }
                         note("good", good);
                       }};
void echo_many(int listener) {
  std::thread threads[kMany];
  for (std::thread &thread : threads) {
    thread = std::thread([fd = take(listener)] {
      char buffer[100];
      for (ssize_t got; (got = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
        send_all(fd, {buffer, static_cast<std::size_t>(got)});
      }
      close(fd);
    });
  }
  for (std::thread &thread : threads) thread.join();
}
void ask_many(std::uint16_t port, int start) {
  int dialled[kMany];
  static int good;  // vfork() lets no local one be
  for (int &fd : dialled) {
    int low = dial(port);
    good += ask(low, "before");  // accepted: no queue runs over
    fd = fcntl(low, F_DUPFD, 500);
    close(low);
  }
  for (int i = 0; i < kMany; ++i) {
    dup2(dialled[i], number_of(i));
    close(dialled[i]);
  }
  Then then("asks-on-each", 0);
  pid_t child = 0;
  if (start == 0) child = vfork();
  if (start < 2 && child == 0) execv(then.path(), then.arguments());
  if (start == 2) {
    note("posix_spawn",
         posix_spawn(&child, then.path(), nullptr, nullptr, then.arguments(), environ));
  }
  note_status(child);
  for (int i = 0; i < kMany; ++i) good += ask(number_of(i), "after");
  note("good", good);
}
Scenario many_vfork{"spawning/more-than-a-message-by-vfork", echo_many,
                    [](std::uint16_t port) { ask_many(port, 0); }};
Scenario many_exec{"spawning/more-than-a-message-by-exec", echo_many,
                   [](std::uint16_t port) { ask_many(port, 1); }};
Scenario many_spawn{"spawning/more-than-a-message-by-spawn", echo_many,
                    [](std::uint16_t port) { ask_many(port, 2); }};

}  // namespace
