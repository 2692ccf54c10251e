// A program that uses every hooked call on files, pipes and loopback sockets and prints what it
// sees. hooks_transparency_test.py compares what it prints with and without the preload; nothing
// it prints may differ between two runs.

#include <aio.h>
#include <arpa/inet.h>
#include <execinfo.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>
#include <wordexp.h>

#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

extern char **environ;

namespace {

// The result of a call, its errno when it failed.
void show(const char *what, long result) {
  int error = errno;
  if (result < 0) {
    std::printf("%s: %ld %s\n", what, result, strerrorname_np(error));
  } else {
    std::printf("%s: %ld\n", what, result);
  }
  errno = 0;
}
void show(const char *what, long result, const char *bytes) {
  show(what, result);
  if (result > 0) std::printf("  %.*s\n", static_cast<int>(result), bytes);
}

struct Pair {
  int client, server;
};

Pair connected() {
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  bind(listener, reinterpret_cast<sockaddr *>(&address), length);
  listen(listener, 4);
  getsockname(listener, reinterpret_cast<sockaddr *>(&address), &length);
  int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  show("connect", connect(client, reinterpret_cast<sockaddr *>(&address), length));
  int server = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  close(listener);
  return {client, server};
}

void data_calls() {
  auto [client, server] = connected();
  char buffer[256];
  iovec out[2] = {{const_cast<char *>("ab"), 2}, {const_cast<char *>("cd"), 2}};
  iovec in[2] = {{buffer, 3}, {buffer + 3, 100}};
  show("write", write(client, "write", 5));
  show("read", read(server, buffer, sizeof buffer), buffer);
  show("writev", writev(client, out, 2));
  show("readv", readv(server, in, 2), buffer);
  volatile int negative = -1;  // not for the compiler to see
  show("writev -1", writev(client, out, negative));
  show("pwritev2 -1", pwritev2(client, out, 2, -1, 0));
  show("preadv2 -1", preadv2(server, in, 2, -1, RWF_NOWAIT), buffer);
  show("pwritev2 0", pwritev2(client, out, 2, 0, 0));
  show("send", send(client, "send", 4, MSG_NOSIGNAL));
  show("recv peek", recv(server, buffer, sizeof buffer, MSG_PEEK), buffer);
  show("recv", recv(server, buffer, sizeof buffer, 0), buffer);
  show("recv empty", recv(server, buffer, sizeof buffer, MSG_DONTWAIT));
  show("sendto", sendto(client, "sendto", 6, 0, nullptr, 0));
  sockaddr_storage from{};
  socklen_t from_length = sizeof from;
  show(
      "recvfrom",
      recvfrom(server, buffer, sizeof buffer, 0, reinterpret_cast<sockaddr *>(&from), &from_length),
      buffer);
  show("recvfrom length", from_length);
  mmsghdr messages[2] = {};
  messages[0].msg_hdr.msg_iov = &out[0];
  messages[0].msg_hdr.msg_iovlen = 1;
  messages[1].msg_hdr.msg_iov = &out[1];
  messages[1].msg_hdr.msg_iovlen = 1;
  show("sendmsg", sendmsg(client, &messages[0].msg_hdr, 0));
  show("sendmmsg", sendmmsg(client, messages, 2, 0));
  messages[0].msg_hdr.msg_iov = &in[0];
  messages[1].msg_hdr.msg_iov = &in[1];
  timespec timeout{1, 0};
  show("recvmmsg", recvmmsg(server, messages, 2, MSG_WAITFORONE, &timeout));
  show("recvmsg", recvmsg(server, &messages[1].msg_hdr, MSG_DONTWAIT));
  int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  off_t offset = 1;
  show("sendfile", sendfile(client, file, &offset, 3));
  show("sendfile offset", offset);
  show("recv sendfile", recv(server, buffer, 3, MSG_WAITALL), buffer);
  int pipes[2];
  show("pipe2", pipe2(pipes, O_CLOEXEC));
  show("write pipe", write(pipes[1], "spliced", 7));
  show("splice", splice(pipes[0], nullptr, client, nullptr, 7, 0));
  show("recv splice", recv(server, buffer, 7, MSG_WAITALL), buffer);
  // The kernel refuses sockets in these: they need no hook.
  off64_t at = 0;
  show("copy_file_range", copy_file_range(file, &at, client, nullptr, 10, 0));
  show("tee", tee(pipes[0], client, 10, 0));
  show("vmsplice", vmsplice(client, out, 1, 0));
  show("pwrite", pwrite(client, "x", 1, 0));
  aiocb request{};
  request.aio_fildes = client;
  request.aio_buf = const_cast<char *>("aio");
  request.aio_nbytes = 3;
  const aiocb *list[] = {&request};
  show("aio_write", aio_write(&request));
  while (aio_error(&request) == EINPROGRESS) aio_suspend(list, 1, nullptr);
  show("aio_return", aio_return(&request));
  show("recv aio", recv(server, buffer, 3, MSG_WAITALL), buffer);
  show("syscall write", syscall(SYS_write, client, "raw", 3));
  int waiting = 0;
  show("ioctl", ioctl(server, FIONREAD, &waiting));
  show("FIONREAD", waiting);
  show("syscall read", syscall(SYS_read, server, buffer, sizeof buffer), buffer);
  show("dprintf", dprintf(client, "%s-%d", "formatted", 7));
  show("recv dprintf", recv(server, buffer, 11, MSG_WAITALL), buffer);
  int value = 0;
  socklen_t length = sizeof value;
  show("getsockopt", getsockopt(client, SOL_SOCKET, SO_ERROR, &value, &length));
  show("SO_ERROR", value);
  value = 1;
  show("setsockopt", setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &value, sizeof value));
  show("shutdown", shutdown(client, SHUT_WR));
  show("read end", read(server, buffer, sizeof buffer));
  show("close", close(client) + close(server) + close(file) + close(pipes[0]) + close(pipes[1]));
  show("close again", close(client));
  show("read closed", read(client, buffer, 1));
  show("connect closed", connect(client, nullptr, 0));
}

void streams() {
  auto [client, server] = connected();
  FILE *out = fdopen(client, "w");
  FILE *in = fdopen(server, "r");
  show("fileno", fileno(out) == client && fileno(in) == server);
  std::fprintf(out, "line one\nline two\n");
  show("fflush", std::fflush(out));
  char line[64];
  std::printf("fgets %s", std::fgets(line, sizeof line, in));
  std::printf("fgets %s", std::fgets(line, sizeof line, in));
  show("fclose", std::fclose(out));
  show("fgets end", std::fgets(line, sizeof line, in) == nullptr && std::feof(in) != 0);
  show("fclose", std::fclose(in));
  show("closed by fclose", fcntl(client, F_GETFD));
  FILE *bad = fdopen(client, "r");
  show("fdopen closed", bad == nullptr ? -1 : 0);
  FILE *reopened = std::freopen("/dev/null", "r", stdin);
  show("freopen", reopened == stdin);
  FILE *kept = std::fopen("/dev/null", "w");
  show("fileno", fileno(kept) >= 0 && fileno_unlocked(kept) == fileno(kept));
  show("fputs", std::fputs("text", kept));
  show("fclose", std::fclose(kept));
  FILE *temporary = std::tmpfile();
  std::fputs("kept for now", temporary);
  std::rewind(temporary);
  std::printf("fgets %s\n", std::fgets(line, sizeof line, temporary));
  show("fclose", std::fclose(temporary));
  show("fopen", std::fopen("/no/such/file", "r") == nullptr ? -1 : 0);
  show("freopen of a closed name", std::freopen("/no/such/file", "r", stdin) == nullptr ? -1 : 0);
}

void descriptors() {
  auto [client, server] = connected();
  char byte = 0;
  int copy = dup(client);
  int high = fcntl(client, F_DUPFD_CLOEXEC, 200);
  show("F_DUPFD", fcntl(client, F_DUPFD, 150));
  show("F_DUPFD_CLOEXEC", high);
  show("dup2 same", dup2(client, client) == client);
  show("dup2", dup2(client, 160));
  show("dup3", dup3(160, 161, O_CLOEXEC));
  show("dup3 same", dup3(160, 160, 0));
  show("dup3 flags", dup3(160, 161, O_APPEND));
  show("dup2 of closed", dup2(199, 160));
  show("write dup", write(161, "d", 1));
  show("read dup", read(server, &byte, 1), &byte);
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event{};
  event.events = EPOLLIN;
  show("epoll_ctl", epoll_ctl(epoll, EPOLL_CTL_ADD, server, &event));
  show("epoll_ctl again", epoll_ctl(epoll, EPOLL_CTL_ADD, server, &event));
  int pair[2];
  show("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  // A TCP socket through SCM_RIGHTS.
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec part{&byte, 1};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &client, sizeof client);
  show("sendmsg rights", sendmsg(pair[0], &message, 0));
  show("recvmsg rights", recvmsg(pair[1], &message, 0));
  int received = -1;
  std::memcpy(&received, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof received);
  show("write received", write(received, "r", 1));
  show("read received", read(server, &byte, 1), &byte);
  show("close_range flags", close_range(150, 170, 1 << 10));
  show("close_range order", close_range(170, 150, 0));
  show("close_range", close_range(150, 170, 0));
  show("closed by range", fcntl(161, F_GETFD));
  closefrom(3);
  show("closed by closefrom", fcntl(copy, F_GETFD));
  show("closed by closefrom", fcntl(high, F_GETFD));
}

// What the C library writes to a number by itself, sent to a file.
void diagnostics() {
  FILE *file = std::tmpfile();
  int saved = dup(2);
  dup2(fileno(file), 2);
  siginfo_t info{};
  info.si_signo = SIGUSR1;
  psiginfo(&info, "psiginfo");
  openlog("hooks", LOG_PERROR, LOG_USER);
  errno = ENOENT;
  syslog(LOG_INFO, "syslog %d: %m", 1);
  setlogmask(LOG_UPTO(LOG_ERR));
  syslog(LOG_INFO, "not seen");
  closelog();
  wordexp_t words{};
  show("wordexp", wordexp("$(echo words from a shell)", &words, 0));
  std::printf("%zu %s\n", words.we_wordc, words.we_wordv[3]);
  wordfree(&words);
  void *frames[4];
  backtrace_symbols_fd(frames, backtrace(frames, 1), 2);
  dup2(saved, 2);
  close(saved);
  std::rewind(file);
  char line[256];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    char *address = std::strchr(line, '(');  // differs in each process
    if (address != nullptr) std::strcpy(address, "\n");
    std::printf("%s", line);
  }
  std::fclose(file);
}

int wait_for(pid_t pid) {
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

template <typename Child>
void in_child(const char *what, Child child) {
  std::fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    child();
    _exit(99);
  }
  show(what, wait_for(pid));
}

void processes() {
  char shell[] = "sh", option[] = "-c";
  char script[] = "echo from $0 $NAME; exit 3", name[] = "execed";
  char *arguments[] = {shell, option, script, name, nullptr};
  char variable[] = "NAME=value", path[] = "PATH=/usr/bin:/bin";
  char *environment[] = {variable, path, nullptr};
  in_child("execve", [&] { execve("/bin/sh", arguments, environment); });
  in_child("execv", [&] { execv("/bin/sh", arguments); });
  in_child("execvp", [&] { execvp("sh", arguments); });
  in_child("execvpe", [&] { execvpe("sh", arguments, environment); });
  in_child("execl", [&] { execl("/bin/sh", "sh", "-c", script, "l", nullptr); });
  in_child("execle", [&] { execle("/bin/sh", "sh", "-c", script, "le", nullptr, environment); });
  in_child("execlp", [&] { execlp("sh", "sh", "-c", script, "lp", nullptr); });
  in_child("execveat", [&] { execveat(AT_FDCWD, "/bin/sh", arguments, environment, 0); });
  in_child("fexecve", [&] { fexecve(open("/bin/sh", O_RDONLY), arguments, environment); });
  in_child("execve missing", [&] {
    show("missing", execve("/no/such/file", arguments, environment));
    std::fflush(stdout);
  });
  in_child("execvp missing", [&] {
    show("missing", execvp("no-such-command", arguments));
    std::fflush(stdout);
  });
  in_child("raw execve", [&] { syscall(SYS_execve, "/bin/sh", arguments, environment); });
  std::fflush(stdout);
  pid_t pid = -1;
  show("posix_spawn", posix_spawn(&pid, "/bin/sh", nullptr, nullptr, arguments, environment));
  show("spawned", wait_for(pid));
  show("posix_spawnp", posix_spawnp(&pid, "sh", nullptr, nullptr, arguments, environment));
  show("spawned", wait_for(pid));
  show("posix_spawn missing",
       posix_spawn(&pid, "/no/such/file", nullptr, nullptr, arguments, environment));
  show("system", WEXITSTATUS(std::system("exit 5")));
  FILE *output = popen("echo piped", "r");
  char line[32] = {};
  std::printf("popen %s", std::fgets(line, sizeof line, output));
  show("pclose", pclose(output));
  int pipes[2];
  show("pipe2", pipe2(pipes, 0));
  std::fflush(stdout);
  // As CPython's subprocess: a vfork child moves and closes descriptors of its own.
  pid = vfork();
  if (pid == 0) {
    dup2(pipes[1], 1);
    close(pipes[0]);
    close(pipes[1]);
    execl("/bin/sh", "sh", "-c", "echo from vfork", nullptr);
    _exit(127);
  }
  show("vforked", wait_for(pid));
  show("parent's end is open", write(pipes[1], "+", 1));
  char text[32] = {};
  show("read vforked", read(pipes[0], text, sizeof text), text);
  in_child("exit in fork", [] { std::exit(7); });
  in_child("quick_exit", [] { quick_exit(8); });
  in_child("_Exit", [] { _Exit(9); });
  in_child("return to the kernel", [] { syscall(SYS_exit_group, 10); });
  in_child("daemon", [] { _exit(daemon(1, 1) == 0 ? 0 : 1); });
}

// inetd's and ftpd's way: the socket becomes the standard output of a child.
void standard_streams() {
  auto [client, server] = connected();
  in_child("printf to a socket", [client] {
    dup2(client, 1);
    std::printf("printf %d\n", 1);
    std::puts("puts");
    show("fileno", fileno(stdout));
    std::exit(11);
  });
  close(client);
  std::string all;
  char buffer[256];
  ssize_t got = 0;
  while ((got = read(server, buffer, sizeof buffer)) > 0)
    all.append(buffer, static_cast<size_t>(got));
  std::printf("%s", all.c_str());
  int plain = dup(1);
  std::fflush(stdout);
  auto [one, other] = connected();
  dup2(one, 1);
  std::puts("through the socket");
  std::fflush(stdout);
  dup2(plain, 1);
  std::puts("back on the plain stream");
  close(one);
  show("read", read(other, buffer, sizeof buffer), buffer);
  close(other);
  close(server);
  close(plain);
}

void names() {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo *list = nullptr;
  show("getaddrinfo", getaddrinfo("127.0.0.1", "80", &hints, &list));
  freeaddrinfo(list);
  show("gethostbyname", gethostbyname("127.0.0.1") != nullptr);
  hostent entry{}, *result = nullptr;
  char buffer[1024];
  int error = 0;
  show("gethostbyname_r",
       gethostbyname_r("127.0.0.1", &entry, buffer, sizeof buffer, &result, &error));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  show("getnameinfo", getnameinfo(reinterpret_cast<sockaddr *>(&address), sizeof address, buffer,
                                  sizeof buffer, nullptr, 0, NI_NUMERICHOST));
  show("gethostbyaddr", gethostbyaddr(&address.sin_addr, sizeof address.sin_addr, AF_INET) != nullptr);
  show("gethostbyname2", gethostbyname2("127.0.0.1", AF_INET) != nullptr);
  gaicb request{};
  request.ar_name = "127.0.0.1";
  request.ar_request = &hints;
  gaicb *requests[] = {&request};
  show("getaddrinfo_a", getaddrinfo_a(GAI_WAIT, requests, 1, nullptr));
  show("gai_error", gai_error(&request));
}

void *blocked_reader(void *argument) {
  char byte;
  read(*static_cast<int *>(argument), &byte, 1);
  return nullptr;
}

long raw_read_gave = -1;

// Not a cancellation point: the read returns, then the thread ends at one.
void *raw_reader(void *argument) {
  char byte;
  raw_read_gave = syscall(SYS_read, *static_cast<int *>(argument), &byte, 1);
  pthread_testcancel();
  return nullptr;
}

void cancellation() {
  auto [client, server] = connected();
  pthread_t thread;
  pthread_create(&thread, nullptr, blocked_reader, &server);
  pthread_cancel(thread);
  void *result = nullptr;
  pthread_join(thread, &result);
  show("a thread blocked in read is cancelled", result == PTHREAD_CANCELED);
  pthread_create(&thread, nullptr, raw_reader, &server);
  pthread_cancel(thread);
  show("write", write(client, "c", 1));
  pthread_join(thread, &result);
  show("raw read of a cancelled thread", raw_read_gave);
  show("a thread blocked in a raw read is cancelled later", result == PTHREAD_CANCELED);
  close(client);
  close(server);
}

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOFBF, 1 << 16);
  errno = 0;
  data_calls();
  streams();
  diagnostics();
  names();
  cancellation();
  show("prctl", prctl(PR_GET_DUMPABLE));
  show("unshare", unshare(0));
  show("setns", setns(-1, 0));
  standard_streams();
  processes();
  descriptors();
  return 0;  // the C library flushes stdout on the way
}
