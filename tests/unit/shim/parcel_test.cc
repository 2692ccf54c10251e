// Connections that go to the next image in the queue of a socket, and what a spawned one will find
// open.
#include "shim/session/parcel.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "shim/session/spawn_actions.h"

using namespace inlay::shim;

namespace {

struct Identity {
  dev_t device;
  ino_t inode;
  bool operator==(const Identity &) const = default;
};
Identity identity(int fd) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return {};
  return {info.st_dev, info.st_ino};
}

// A pipe's end with this number, at or above 500 so that nothing else is there.
int pipe_at(int number) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  REQUIRE(::dup2(ends[0], number) == number);
  ::close(ends[0]);
  ::close(ends[1]);
  return number;
}

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

std::set<int> open_numbers() {
  std::set<int> open;
  for (int fd = 0; fd < 2000; ++fd) {
    if (is_open(fd)) open.insert(fd);
  }
  return open;
}

// The end as the next image has it, which is what a close-on-exec parcel leaves.
ParcelDescriptor inherited(const Parcel &parcel, int number = -1) {
  int fd = number < 0 ? ::dup(parcel.end()) : ::dup2(parcel.end(), number);
  REQUIRE(fd >= 0);
  return parcel.named(fd);
}

// A pair like that of a parcel, to be filled with something else; the inherited end.
struct Forged {
  Forged(int type = SOCK_SEQPACKET) { REQUIRE(::socketpair(AF_UNIX, type, 0, ends) == 0); }
  ~Forged() { ::close(ends[1]); }
  void say(const void *bytes, std::size_t size, const std::vector<int> &fds) {
    char control[CMSG_SPACE(64 * sizeof(int))] = {};
    iovec part{const_cast<void *>(bytes), size};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
      cmsghdr *rights = CMSG_FIRSTHDR(&message);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
      std::memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
    }
    REQUIRE(::sendmsg(ends[1], &message, 0) == static_cast<ssize_t>(size));
  }
  ParcelDescriptor named() const { return {ends[0], identity(ends[0]).inode, 1}; }
  int ends[2];
};

}  // namespace

TEST_CASE("what was put into a parcel comes out under its numbers") {
  std::vector<std::pair<int, Identity>> sent;
  ParcelDescriptor end{};
  {
    Parcel parcel;
    CHECK(parcel.end() == -1);
    for (int number = 500; number < 900; number += 1 + number % 3) {  // several messages
      parcel.add(number, pipe_at(number), false);
      sent.emplace_back(number, identity(number));
    }
    CHECK(parcel.seal());
    CHECK((::fcntl(parcel.end(), F_GETFD) & FD_CLOEXEC) != 0);
    end = inherited(parcel);
  }
  for (auto &[number, what] : sent) ::close(number);
  std::set<int> before = open_numbers();
  CHECK(unpack(end));
  for (auto &[number, what] : sent) {
    CAPTURE(number);
    CHECK(identity(number) == what);
    CHECK(::fcntl(number, F_GETFD) == 0);
    ::close(number);
  }
  before.erase(end.fd);
  CHECK(open_numbers() == before);
}

TEST_CASE("a parcel that is not unpacked reads as ended, and its connections end with it") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  ParcelDescriptor end{};
  {
    Parcel parcel;
    parcel.add(500, ends[1], false);
    REQUIRE(parcel.seal());
    end = inherited(parcel);
  }
  ::close(ends[1]);
  char byte;
  CHECK(::read(end.fd, &byte, 1) == 0);
  CHECK(::send(end.fd, "x", 1, MSG_NOSIGNAL) == -1);
  CHECK(errno == EPIPE);
  ::close(end.fd);
  CHECK(::read(ends[0], &byte, 1) == 0);
  ::close(ends[0]);
}

TEST_CASE("the numbers of a spawned image hold the parcel itself until it is unpacked") {
  Parcel parcel;
  for (int number : {500, 501, 600}) parcel.add(number, pipe_at(number + 200), false);
  REQUIRE(parcel.seal());
  for (int number : {501, 600}) inherited(parcel, number);
  CHECK(unpack(inherited(parcel, 500)));
  for (int number : {500, 501, 600}) {
    CAPTURE(number);
    CHECK(identity(number) == identity(number + 200));
    ::close(number);
    ::close(number + 200);
  }
}

TEST_CASE("exec that failed has the numbers back, and nothing is left in the queue") {
  Parcel parcel;
  int count = 0;
  for (int number = 500; number < 800; ++number, ++count) parcel.add(number, 1, false);
  REQUIRE(parcel.seal());
  int expected = 500;
  parcel.take_back([&](int number) { CHECK(number == expected++); });
  CHECK(expected == 500 + count);
  parcel.take_back([&](int) { FAIL("twice"); });
}

TEST_CASE("a number that is taken by now keeps what it has") {
  Parcel parcel;
  parcel.add(500, 1, false);
  REQUIRE(parcel.seal());
  Identity taken = identity(pipe_at(500));
  ParcelDescriptor end = inherited(parcel);
  CHECK_FALSE(unpack(end));
  CHECK(identity(500) == taken);
  CHECK_FALSE(is_open(end.fd));
  ::close(500);
}

TEST_CASE("numbers above the limit come back as long as the hard one allows it") {
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  Parcel parcel;
  parcel.add(900, pipe_at(901), false);
  REQUIRE(parcel.seal());
  ParcelDescriptor end = inherited(parcel);
  rlimit low{400, before.rlim_max}, now{};
  ::setrlimit(RLIMIT_NOFILE, &low);
  CHECK(unpack(end));
  ::getrlimit(RLIMIT_NOFILE, &now);
  ::setrlimit(RLIMIT_NOFILE, &before);
  CHECK(now.rlim_cur == 400);
  CHECK(identity(900) == identity(901));
  ::close(900);
  ::close(901);
}

TEST_CASE("what is no parcel is left alone, and a forged one does no harm") {
  std::set<int> before = open_numbers();
  {
    int file = ::memfd_create("file", MFD_CLOEXEC);
    CHECK_FALSE(unpack({file, identity(file).inode, 1}));
    CHECK(unpack({}));
    CHECK_FALSE(unpack({1999, 5, 1}));
    CHECK(is_open(file));
    ::close(file);
    Forged other, stream(SOCK_STREAM), empty;
    CHECK_FALSE(unpack({other.ends[0], identity(other.ends[0]).inode + 1, 1}));
    CHECK_FALSE(unpack(stream.named()));
    CHECK_FALSE(unpack(empty.named()));
    for (const Forged *one : {&other, &stream, &empty}) {
      CHECK(is_open(one->ends[0]));
      ::close(one->ends[0]);
    }
  }
  int pipe = pipe_at(500);
  Identity standard = identity(1);
  {
    Forged forged;
    std::int32_t numbers[64] = {};
    forged.say("", 0, {});
    forged.say("abc", 3, {pipe, pipe});           // not a whole number
    forged.say(numbers, 4, {pipe, pipe, pipe});   // more descriptors than numbers
    forged.say(numbers, sizeof numbers, {pipe});  // fewer, and what is open
    numbers[0] = -1;
    numbers[1] = 1 << 30;
    numbers[2] = forged.ends[0];
    numbers[3] = forged.ends[0];
    forged.say(numbers, 16, {pipe, pipe, pipe, pipe});
    forged.say(numbers, 16, {});
    std::string large(1 << 16, '\x7f');
    forged.say(large.data(), large.size(), {pipe});
    unpack(forged.named());
    ::close(forged.ends[0]);
  }
  CHECK(identity(1) == standard);
  ::close(pipe);
  CHECK(open_numbers() == before);
}

TEST_CASE("what posix_spawn leaves open is known beforehand") {
  posix_spawn_file_actions_t actions;
  REQUIRE(posix_spawn_file_actions_init(&actions) == 0);
  auto source = [&](int number) {
    SpawnSource found = spawn_source(&actions, number);
    return std::pair(found.fd, found.is_copy);
  };
  const std::pair none(-1, false);
  CHECK(spawn_source(nullptr, 7).fd == 7);
  CHECK(source(7) == std::pair(7, false));
  posix_spawn_file_actions_adddup2(&actions, 7, 0);
  posix_spawn_file_actions_adddup2(&actions, 0, 1);
  posix_spawn_file_actions_addclose(&actions, 7);
  posix_spawn_file_actions_addchdir_np(&actions, "/");
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  CHECK(source(0) == none);
  CHECK(source(1) == std::pair(7, true));
  CHECK(source(7) == none);
  CHECK(source(2) == std::pair(2, false));
  posix_spawn_file_actions_adddup2(&actions, 9, 9);
  posix_spawn_file_actions_adddup2(&actions, 1, 20);
  CHECK(source(9) == std::pair(9, true));
  CHECK(source(20) == std::pair(7, true));
  posix_spawn_file_actions_addclosefrom_np(&actions, 3);
  CHECK(source(9) == none);
  CHECK(source(20) == none);
  CHECK(source(1) == std::pair(7, true));
  posix_spawn_file_actions_adddup2(&actions, 1, 30);
  CHECK(source(30) == std::pair(7, true));

  SpawnActions made;
  REQUIRE(made.add_dup2(3, 4));
  // 1 is a copy by then, which nothing stands for.
  posix_spawn_file_actions_adddup2(&actions, 2, 31);
  REQUIRE(made.add(&actions, [](int fd) { return fd == 2 ? 1 : fd + 100; }));
  for (int i = 0; i < 100; ++i) REQUIRE(made.add_close(1000 + i));
  posix_spawn_file_actions_t given = made.as_given();
  CHECK(given.__used == 1 + actions.__used + 100);
  CHECK(spawn_source(&given, 30).fd == 107);
  CHECK(spawn_source(&given, 31).fd == 107);
  CHECK(spawn_source(&given, 1050).fd == -1);
  posix_spawn_file_actions_destroy(&actions);
}
