// Ways in which the C library writes into a descriptor without a call that a hook sees, each on a
// protected connection: stdio_ways WAY PORT CANARY GREETING. stdio_test.py watches the wire.
#include "tests/faults/stdio_ways.h"

#include <aio.h>
#include <arpa/inet.h>
#include <err.h>
#include <error.h>
#include <execinfo.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>
#include <wordexp.h>

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cwchar>
#include <ext/stdio_filebuf.h>
#include <iostream>
#include <string>
#include <string_view>

#if defined(__x86_64__)
#define FIRST_VERSION "@GLIBC_2.2.5"
#else
#define FIRST_VERSION "@GLIBC_2.17"
#endif
// As a program has them that was linked when they could be.
asm(".symver clnttcp_create, clnttcp_create" FIRST_VERSION);
asm(".symver svcfd_create, svcfd_create" FIRST_VERSION);
asm(".symver xdr_wrapstring, xdr_wrapstring" FIRST_VERSION);
extern "C" {
struct RpcClient {
  void *identity;
  struct Calls {
    int (*call)(RpcClient *, unsigned long, int (*)(void *, char **), const char **, void *, void *, timeval);
  } *calls;
};
RpcClient *clnttcp_create(sockaddr_in *, unsigned long, unsigned long, int *, unsigned, unsigned);
void *svcfd_create(int, unsigned, unsigned);
int xdr_wrapstring(void *, char **);
ssize_t _IO_file_write(FILE *stream, const void *data, ssize_t size);
FILE *_IO_file_attach(FILE *stream, int fd);
}

namespace ways {

std::string g_canary;

namespace {

std::string g_port;
std::size_t g_greeting = 0;

}  // namespace

sockaddr_in server_address() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(std::stoi(g_port)));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

int dial() {
  sockaddr_in address = server_address();
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) _exit(3);
  return fd;
}

void hear_greeting(int fd) {
  std::string got(g_greeting, '\0');
  if (recv(fd, got.data(), got.size(), MSG_WAITALL) != static_cast<ssize_t>(got.size())) _exit(4);
}

int established() {
  int fd = dial();
  hear_greeting(fd);
  return fd;
}

int on(int number) {
  int fd = established();
  if (dup2(fd, number) != number) _exit(5);
  close(fd);
  return number;
}

namespace {

std::wstring wide() { return {g_canary.begin(), g_canary.end()}; }

int print_va(int fd, const char *format, ...) {
  va_list list;
  va_start(list, format);
  int result = vdprintf(fd, format, list);
  va_end(list);
  return result;
}

const Way kWays[] = {
    // --- streams and formatting ---
    {"fdopen",
     [] {
       FILE *file = fdopen(established(), "w");
       write_and_flush(file);
       std::fclose(file);
     }},
    {"fdopen before connect",
     [] {
       int fd = socket(AF_INET, SOCK_STREAM, 0);
       FILE *file = fdopen(fd, "r+");
       int connected = dial();
       dup2(connected, fd);
       close(connected);
       hear_greeting(fd);
       write_and_flush(file);
     }},
    {"fdopen, exit without fflush", [] { std::fputs(canary(), fdopen(established(), "w")); }},
    {"putc",
     [] {
       FILE *file = fdopen(established(), "w");
       for (char c : g_canary) putc_unlocked(c, file);
       std::fflush(file);
     }},
    {"fwprintf",
     [] {
       FILE *file = fdopen(established(), "w");
       std::fwprintf(file, L"%ls", wide().c_str());
       std::fflush(file);
     }},
    {"fputws",
     [] {
       std::setlocale(LC_ALL, "C.UTF-8");
       on(1);
       std::fputws(wide().c_str(), stdout);
       std::fflush(stdout);
     }},
    {"freopen",
     [] {
       FILE *file = fdopen(established(), "w");
       std::fputs(canary(), file);
       if (std::freopen("/dev/null", "w", file) == nullptr) _exit(6);
     }},
    {"freopen of stdout",
     [] {
       int saved = dup(1);
       on(1);
       std::printf("%s", canary());
       FILE *file = std::freopen("/dev/null", "w", stdout);
       if (file == nullptr || file != stdout || fileno(file) != 1) _exit(6);
       dup2(saved, 1);
       std::printf("goes on\n");
     }},
    {"freopen in vain",
     [] {
       FILE *file = fdopen(established(), "w");
       int number = fileno(file);
       std::fputs(canary(), file);
       if (std::freopen("/no/such/file", "w", file) != nullptr) _exit(6);
       if (fcntl(number, F_GETFD) != -1) _exit(7);
       std::fclose(file);
     }},
    {"dprintf", [] { dprintf(established(), "%s", canary()); }},
    {"vdprintf", [] { print_va(established(), "%s", canary()); }},
    {"stdio_filebuf",
     [] {
       __gnu_cxx::stdio_filebuf<char> buffer(established(), std::ios::out);
       std::ostream(&buffer) << g_canary << std::flush;
     }},
    {"_IO_file_write",
     [] {
       FILE *file = fdopen(established(), "w");
       _IO_file_write(file, canary(), static_cast<ssize_t>(g_canary.size()));
     }},
    {"_IO_file_attach",
     [] {
       FILE *file = std::fopen("/dev/null", "w");
       int saved = dup(fileno(file));
       close(fileno(file));
       file->_fileno = -1;
       if (_IO_file_attach(file, established()) != nullptr) write_and_flush(file);
       close(saved);
     }},

    // --- on a standard number ---
    {"printf",
     [] {
       on(1);
       std::printf("%s", canary());
       std::fflush(stdout);
     }},
    {"puts, exit without fflush",
     [] {
       on(1);
       std::puts(canary());
     }},
    {"cout",
     [] {
       on(1);
       std::cout << g_canary << std::flush;
     }},
    {"cout without stdio",
     [] {
       std::ios::sync_with_stdio(false);
       on(1);
       std::cout << g_canary << std::flush;
     }},
    {"wcout",
     [] {
       on(1);
       std::wcout << wide() << std::flush;
     }},
    {"wcout, exit without flush",
     [] {
       on(1);
       std::wcout << wide();
     }},
    {"cerr",
     [] {
       on(2);
       std::cerr << g_canary;
     }},
    {"perror",
     [] {
       on(2);
       std::perror(canary());
     }},
    {"perror on a wide stream",
     [] {
       std::fwide(stderr, 1);
       on(2);
       std::perror(canary());
     }},
    {"warn",
     [] {
       on(2);
       warnx("%s", canary());
     }},
    {"error",
     [] {
       on(2);
       error(0, 0, "%s", canary());
     }},
    {"psignal",
     [] {
       on(2);
       psignal(SIGINT, canary());
     }},
    {"psiginfo",
     [] {
       on(2);
       siginfo_t info{};
       info.si_signo = SIGINT;
       psiginfo(&info, canary());
     }},
    {"getopt",
     [] {
       on(2);
       char *arguments[] = {g_canary.data(), const_cast<char *>("-x"), nullptr};
       getopt(2, arguments, "");
     }},
    {"syslog to standard error",
     [] {
       openlog(canary(), LOG_PERROR, LOG_USER);
       on(2);
       syslog(LOG_INFO, "%s", canary());
     }},
    {"getpass",
     [] {
       setsid();  // no terminal
       on(2);
       getpass(canary());
     }},
    {"closed 1, connected",
     [] {
       close(1);
       int fd = dial();
       if (fd != 1) _exit(7);
       hear_greeting(fd);
       std::printf("%s", canary());
       std::fflush(stdout);
     }},

    // --- calls with a descriptor ---
    {"pwritev2",
     [] {
       iovec part{g_canary.data(), g_canary.size()};
       pwritev2(established(), &part, 1, -1, 0);
     }},
    {"pwritev64v2",
     [] {
       iovec part{g_canary.data(), g_canary.size()};
       pwritev64v2(established(), &part, 1, -1, RWF_NOWAIT);
     }},
    {"pwrite", [] { pwrite(established(), canary(), g_canary.size(), 0); }},
    {"pwritev",
     [] {
       iovec part{g_canary.data(), g_canary.size()};
       pwritev(established(), &part, 1, -1);
     }},
    {"vmsplice",
     [] {
       iovec part{g_canary.data(), g_canary.size()};
       vmsplice(established(), &part, 1, 0);
     }},
    {"splice",
     [] {
       int pipes[2], fd = established();
       pipe(pipes);
       write(pipes[1], canary(), g_canary.size());
       splice(pipes[0], nullptr, fd, nullptr, g_canary.size(), 0);
     }},
    {"tee",
     [] {
       int pipes[2], fd = established();
       pipe(pipes);
       write(pipes[1], canary(), g_canary.size());
       tee(pipes[0], fd, g_canary.size(), 0);
     }},
    {"copy_file_range",
     [] {
       FILE *file = std::tmpfile();
       write_and_flush(file);
       off64_t at = 0;
       copy_file_range(fileno(file), &at, established(), nullptr, g_canary.size(), 0);
     }},
    {"aio_write",
     [] {
       aiocb request{};
       request.aio_fildes = established();
       request.aio_buf = g_canary.data();
       request.aio_nbytes = g_canary.size();
       const aiocb *list[] = {&request};
       if (aio_write(&request) == 0) aio_suspend(list, 1, nullptr);
     }},
    {"backtrace_symbols_fd",
     [] {
       // The names of functions are the program's: `stdio_ways` is looked for on the wire.
       void *frames[8];
       int fd = established();
       backtrace_symbols_fd(frames, backtrace(frames, 8), fd);
     }},

    // --- a connection of the C library's own ---
    {"rexec",
     [] {
       char *host = const_cast<char *>("127.0.0.1");
       int fd = rexec(&host, htons(static_cast<std::uint16_t>(std::stoi(g_port))), canary(),
                      canary(), canary(), nullptr);
       if (fd != -1 || errno != EACCES) _exit(9);
       hear_greeting(dial());
     }},
    {"rcmd",
     [] {
       char *host = const_cast<char *>("127.0.0.1");
       int fd = rcmd(&host, htons(static_cast<std::uint16_t>(std::stoi(g_port))), canary(),
                     canary(), canary(), nullptr);
       if (fd != -1 || errno != EACCES) _exit(9);
       hear_greeting(dial());
     }},
    {"Sun RPC",
     [] {
       int fd = established();
       sockaddr_in address = server_address();
       RpcClient *client = clnttcp_create(&address, 100000, 2, &fd, 0, 0);
       const char *text = canary();
       int nothing = 0;
       if (client != nullptr) {
         client->calls->call(client, 1, xdr_wrapstring, &text, reinterpret_cast<void *>(xdr_wrapstring),
                             &nothing, {1, 0});
       }
       if (client != nullptr || errno != EACCES) _exit(9);
     }},
    {"Sun RPC, to serve",
     [] {
       if (svcfd_create(established(), 0, 0) != nullptr || errno != EACCES) _exit(9);
     }},

    // --- children of the C library's own making, of a program that dropped inlay's variables ---
    {"system",
     [] {
       clearenv();
       on(1);
       if (std::system(("echo " + g_canary).c_str()) < 0) _exit(8);
     }},
    {"popen",
     [] {
       clearenv();
       on(1);
       FILE *pipe = popen(("cat >/dev/null; echo " + g_canary).c_str(), "w");
       pclose(pipe);
     }},
    {"wordexp",
     [] {
       clearenv();
       on(2);
       wordexp_t words{};
       wordexp(("$(echo " + g_canary + " >&2)").c_str(), &words, WRDE_SHOWERR);
     }},
};

}  // namespace
}  // namespace ways

int main(int argc, char **argv) {
  using namespace ways;
  if (argc < 5) return 2;
  g_port = argv[2];
  g_canary = argv[3];
  g_greeting = std::strlen(argv[4]);
  std::signal(SIGPIPE, SIG_IGN);
  for (std::span<const Way> some : {std::span<const Way>(kWays), kept_streams()}) {
    for (const Way &way : some) {
      if (std::string_view(argv[1]) != way.name) continue;
      way.go();
      return 0;
    }
  }
  return 2;
}
