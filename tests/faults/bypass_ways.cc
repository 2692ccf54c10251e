#include "tests/faults/bypass_ways.h"

#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <resolv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "shim/arena/kernel.h"

namespace {

using inlay::shim::kernel::call;
using inlay::shim::kernel::word;

std::vector<std::pair<std::string, long>> g_steps;

// `result` as the kernel gives it.
long step(const char *name, long result) {
  g_steps.emplace_back(name, result < 0 ? -result : 0);
  return result;
}
long from_libc(long result) { return result < 0 ? -errno : result; }

struct Target {
  sockaddr_in address{};
  std::string canary;
  long length() const { return static_cast<long>(canary.size()); }
};

long raw_socket() { return step("socket", call(SYS_socket, AF_INET, SOCK_STREAM, 0)); }
long raw_connect(long fd, const Target &to) {
  return step("connect", call(SYS_connect, fd, word(&to.address), sizeof to.address));
}
long raw_write(long fd, const Target &to) {
  return step("write", call(SYS_write, fd, word(to.canary.data()), to.length()));
}
int hooked_socket() {
  return static_cast<int>(step("socket", from_libc(socket(AF_INET, SOCK_STREAM, 0))));
}

int hooked_connection(const Target &to) {
  int fd = hooked_socket();
  step("connect",
       from_libc(connect(fd, reinterpret_cast<const sockaddr *>(&to.address), sizeof to.address)));
  return fd;
}

// Sends and waits for the echo, whatever comes before it.
void talk(int fd, const std::string &text) {
  if (step("send", from_libc(send(fd, text.data(), text.size(), MSG_NOSIGNAL))) < 0) return;
  char buffer[256];
  std::string got;
  while (got.find(text) == std::string::npos) {
    ssize_t part = recv(fd, buffer, sizeof buffer, 0);
    if (part <= 0) {
      step("recv", part == 0 ? -ENODATA : -errno);
      return;
    }
    got.append(buffer, static_cast<std::size_t>(part));
  }
  step("recv", 0);
}

// --- what a program with system calls of its own does ---

void raw(const Target &to) {
  long fd = raw_socket();
  if (fd < 0 || raw_connect(fd, to) < 0) return;
  raw_write(fd, to);
  call(SYS_close, fd);
}

void raw_connect_only(const Target &to) {
  int fd = hooked_socket();
  raw_connect(fd, to);
  raw_write(fd, to);
  call(SYS_close, fd);
}

// The hooks see the socket before it is connected and again when it is written to.
void connect_between_hooks(const Target &to) {
  int fd = hooked_socket();
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  raw_connect(fd, to);
  step("send", from_libc(send(fd, to.canary.data(), to.canary.size(), MSG_NOSIGNAL)));
  close(fd);
}

void fast_open(const Target &to) {
  int fd = hooked_socket();
  step("sendto", call(SYS_sendto, fd, word(to.canary.data()), to.length(),
                      MSG_FASTOPEN | MSG_NOSIGNAL, word(&to.address), sizeof to.address));
  call(SYS_close, fd);
}

void raw_accept(const Target &to) {
  int listener = hooked_socket();
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  bind(listener, reinterpret_cast<sockaddr *>(&address), sizeof address);
  listen(listener, 5);
  socklen_t length = sizeof address;
  getsockname(listener, reinterpret_cast<sockaddr *>(&address), &length);
  // Who is to connect is told by a connection that inlay has nothing to do with.
  std::string text = std::to_string(ntohs(address.sin_port));
  int teller = socket(AF_INET, SOCK_DGRAM, 0);
  sendto(teller, text.data(), text.size(), 0, reinterpret_cast<const sockaddr *>(&to.address),
         sizeof to.address);
  long fd = step("accept", call(SYS_accept4, listener, 0, 0, 0));
  if (fd >= 0) raw_write(fd, to);
  call(SYS_close, fd);
}

#ifndef INLAY_STATIC
// --- the C library without its hooks ---

void through(void *libc, bool own_socket, const Target &to) {
  auto *make = reinterpret_cast<decltype(&socket)>(dlsym(libc, "socket"));
  auto *join = reinterpret_cast<decltype(&connect)>(dlsym(libc, "connect"));
  auto *put = reinterpret_cast<decltype(&write)>(dlsym(libc, "write"));
  auto *where = reinterpret_cast<decltype(&__errno_location)>(dlsym(libc, "__errno_location"));
  auto result = [&](long value) { return value < 0 ? static_cast<long>(-*where()) : value; };
  int fd = own_socket ? static_cast<int>(step("socket", result(make(AF_INET, SOCK_STREAM, 0))))
                      : hooked_socket();
  if (fd < 0) return;
  const auto *address = reinterpret_cast<const sockaddr *>(&to.address);
  step("connect", result(join(fd, address, sizeof to.address)));
  step("write", result(put(fd, to.canary.data(), to.canary.size())));
  call(SYS_close, fd);
}

#endif

// --- io_uring ---

template <typename T>
T *at(void *base, unsigned offset) {
  return reinterpret_cast<T *>(static_cast<char *>(base) + offset);
}

// One operation at a time through a ring that nothing but the kernel knows of.
class Ring {
 public:
  bool make() {
    io_uring_params made{};
    fd_ = step("io_uring_setup", call(SYS_io_uring_setup, 4, word(&made)));
    if (fd_ < 0) return false;
    parameters_ = made;
    int fd = static_cast<int>(fd_);
    constexpr std::size_t kRoom = 64 * 1024;
    sq_ = mmap(nullptr, kRoom, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
    cq_ = mmap(nullptr, kRoom, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_CQ_RING);
    entries_ =
        static_cast<io_uring_sqe *>(mmap(nullptr, 4 * sizeof(io_uring_sqe), PROT_READ | PROT_WRITE,
                                         MAP_SHARED, fd, IORING_OFF_SQES));
    return sq_ != MAP_FAILED && cq_ != MAP_FAILED && entries_ != MAP_FAILED;
  }
  long run(const io_uring_sqe &entry) {
    entries_[0] = entry;
    unsigned *tail = at<unsigned>(sq_, parameters_.sq_off.tail);
    unsigned mask = *at<unsigned>(sq_, parameters_.sq_off.ring_mask);
    at<unsigned>(sq_, parameters_.sq_off.array)[*tail & mask] = 0;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    long entered = call(SYS_io_uring_enter, fd_, 1, 1, IORING_ENTER_GETEVENTS, 0, 0);
    if (entered < 0) return entered;
    unsigned *head = at<unsigned>(cq_, parameters_.cq_off.head);
    unsigned cq_mask = *at<unsigned>(cq_, parameters_.cq_off.ring_mask);
    long result = at<io_uring_cqe>(cq_, parameters_.cq_off.cqes)[*head & cq_mask].res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
  }

 private:
  long fd_ = -1;
  io_uring_params parameters_{};
  void *sq_ = nullptr, *cq_ = nullptr;
  io_uring_sqe *entries_ = nullptr;
};

void uring(const Target &to) {
  Ring ring;
  if (!ring.make()) return;
  io_uring_sqe entry{};
  entry.opcode = 45;  // IORING_OP_SOCKET, Linux 5.19
  entry.fd = AF_INET;
  entry.off = SOCK_STREAM;
  long fd = step("socket", ring.run(entry));
  if (fd < 0) return;
  entry = {};
  entry.opcode = IORING_OP_CONNECT;
  entry.fd = static_cast<int>(fd);
  entry.addr = reinterpret_cast<std::uint64_t>(&to.address);
  entry.off = sizeof to.address;
  step("connect", ring.run(entry));
  entry = {};
  entry.opcode = IORING_OP_SEND;
  entry.fd = static_cast<int>(fd);
  entry.addr = reinterpret_cast<std::uint64_t>(to.canary.data());
  entry.len = static_cast<std::uint32_t>(to.length());
  step("write", ring.run(entry));
  call(SYS_close, fd);
}

// --- on a managed connection ---

void managed_write(const Target &to) {
  int fd = hooked_connection(to);
  talk(fd, "before");
  raw_write(fd, to);
  talk(fd, "after");
}

void managed_syscall(const Target &to) {
  int fd = hooked_connection(to);
  step("write", from_libc(syscall(SYS_write, fd, to.canary.data(), to.canary.size())));
  char buffer[256];
  std::string got;
  while (got.find(to.canary) == std::string::npos) {
    long part = from_libc(syscall(SYS_read, fd, buffer, sizeof buffer));
    if (part <= 0) {
      step("read", part == 0 ? -ENODATA : part);
      return;
    }
    got.append(buffer, static_cast<std::size_t>(part));
  }
  step("read", 0);
  int copy = static_cast<int>(step("dup", from_libc(syscall(SYS_dup, fd))));
  step("close", from_libc(syscall(SYS_close, fd)));
  talk(copy, "on the copy");
}

// Takes the answer's record away from the session.
void managed_read(const Target &to) {
  int fd = hooked_connection(to);
  talk(fd, "before");
  step("send", from_libc(send(fd, to.canary.data(), to.canary.size(), MSG_NOSIGNAL)));
  char buffer[4096];
  long got = step("read", call(SYS_read, fd, word(buffer), sizeof buffer));
  bool clear = got > 0 && std::string(buffer, static_cast<std::size_t>(got)).find(to.canary) !=
                              std::string::npos;
  step("what was read is no data", clear ? -EBADMSG : 0);
  talk(fd, "after");
}

void managed_dup(const Target &to) {
  int fd = hooked_connection(to);
  // The copy gets the number that a file had.
  char byte = 0;
  int file = open("/proc/self/comm", O_RDONLY);
  step("read", from_libc(read(file, &byte, 1)));
  close(file);
  auto copy = static_cast<int>(step("dup", call(SYS_dup, fd)));
  step("the number", copy == file ? 0 : -EIO);
  talk(copy, to.canary);
  talk(fd, "both work");
}

// The number becomes a file's by calls that no hook sees; then the C library's calls use it.
void managed_close(const Target &to) {
  int fd = hooked_connection(to);
  talk(fd, "before");
  step("close", call(SYS_close, fd));
  long file = call(SYS_memfd_create, word("file"), 0);
  if (file != fd) call(SYS_dup2, file, fd);
  step("write", from_libc(write(fd, to.canary.data(), to.canary.size())));
  std::string got(to.canary.size(), '\0');
  step("what the file has",
       pread(fd, got.data(), got.size(), 0) == to.length() && got == to.canary ? 0 : -EIO);
}

// --- other processes ---

void helper(bool hooked, int port, const Target &to) {
  const char *path = getenv("STATIC_HELPER");
  if (path == nullptr) return;
  std::string number = std::to_string(port), canary = to.canary;
  char *arguments[] = {const_cast<char *>(path), const_cast<char *>("raw"), number.data(),
                       canary.data(), nullptr};
  step("exec", hooked ? execv(path, arguments) == 0 ? 0 : -errno
                      : call(SYS_execve, word(path), word(arguments), word(environ)));
}

// --- the C library's own sockets ---

void resolver(bool over_tcp, const Target &to) {
  struct __res_state state {};
  res_ninit(&state);
  state.nscount = 1;
  state.nsaddr_list[0] = to.address;
  state.retrans = 5;
  state.retry = 2;
  if (over_tcp) state.options |= RES_USEVC;
  unsigned char reply[NS_PACKETSZ];
  step("query",
       from_libc(res_nquery(&state, "name.faults.test", ns_c_in, ns_t_a, reply, sizeof reply)));
  res_nclose(&state);
}

}  // namespace

// The calls by their names, as the loader bound them: a hook's, unless the library was loaded with
// RTLD_DEEPBIND, which puts its own libraries first.
static void by_name(const Target &to) {
  int fd = hooked_socket();
  if (fd < 0) return;
  auto *address = reinterpret_cast<const sockaddr *>(&to.address);
  step("connect", from_libc(connect(fd, address, sizeof to.address)));
  step("write", from_libc(write(fd, to.canary.data(), to.canary.size())));
}

extern "C" __attribute__((visibility("default"))) int go_past(const char *way_name, int port,
                                                              const char *canary) {
  std::string way = way_name;
  Target to;
  to.address.sin_family = AF_INET;
  to.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.address.sin_port = htons(static_cast<std::uint16_t>(port));
  to.canary = canary;
  if (way == "raw")
    raw(to);
  else if (way == "raw connect")
    raw_connect_only(to);
  else if (way == "raw connect between hooks")
    connect_between_hooks(to);
  else if (way == "fast open")
    fast_open(to);
  else if (way == "raw accept")
    raw_accept(to);
  else if (way == "io_uring")
    uring(to);
  else if (way == "managed write")
    managed_write(to);
  else if (way == "managed syscall")
    managed_syscall(to);
  else if (way == "managed read")
    managed_read(to);
  else if (way == "managed dup")
    managed_dup(to);
  else if (way == "managed close")
    managed_close(to);
  else if (way == "by name" || way == "deep binding")
    by_name(to);
  else if (way == "exec")
    helper(true, port, to);
  else if (way == "raw exec")
    helper(false, port, to);
  else if (way == "resolver")
    resolver(false, to);
  else if (way == "resolver over TCP")
    resolver(true, to);
#ifndef INLAY_STATIC
  else if (way == "handle")
    through(dlopen("libc.so.6", RTLD_NOW), true, to);
  else if (way == "handle connect")
    through(dlopen("libc.so.6", RTLD_NOW), false, to);
  else if (way == "dlmopen")
    through(dlmopen(LM_ID_NEWLM, "libc.so.6", RTLD_NOW), true, to);
#endif
  else
    return 2;
  std::string line = "{";
  for (const auto &[name, error] : g_steps) {
    line += (line.size() > 1 ? ", \"" : "\"") + name + "\": \"" +
            (error == 0 ? "ok" : strerrorname_np(static_cast<int>(error))) + "\"";
  }
  line += "}\n";
  return write(1, line.data(), line.size()) == static_cast<ssize_t>(line.size()) ? 0 : 1;
}
