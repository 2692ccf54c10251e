// What a new image believes of INLAY_ARENA, and of the descriptors it names.
#include "shim/arena/inheritance.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdio>
#include <cstring>
#include <string>

#include "shim/arena/shared_memory.h"
#include "shim/boot/sandbox.h"
#include "shim/session/lifetime.h"

using namespace inlay::shim;

namespace {

constexpr std::size_t kSize = 1u << 16;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

std::uint64_t inode_of(int fd) {
  struct stat info {};
  REQUIRE(::fstat(fd, &info) == 0);
  return info.st_ino;
}

int memfd(std::size_t size, int seals) {
  int fd = ::memfd_create("forged", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  REQUIRE(fd >= 0);
  REQUIRE(::ftruncate(fd, static_cast<off_t>(size)) == 0);
  if (seals != 0) REQUIRE(::fcntl(fd, F_ADD_SEALS, seals) == 0);
  return fd;
}

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

}  // namespace

TEST_CASE("the variable says what was put into it") {
  Inheritance given;
  given.count = kMaxInherited;
  for (unsigned i = 0; i < kMaxInherited; ++i) {
    given.arenas[i] = {INT_MAX - static_cast<int>(i), UINT64_MAX - i};
  }
  given.token = UINT64_MAX;
  given.parcel = {INT_MAX, UINT64_MAX, UINT64_MAX};
  char text[kInheritanceSize];
  format_inheritance(given, text);
  REQUIRE(std::strncmp(text, kArenaVariable, sizeof kArenaVariable - 1) == 0);
  Inheritance read = parse_inheritance(text + sizeof kArenaVariable - 1);
  REQUIRE(read.count == given.count);
  CHECK(read.token == given.token);
  CHECK(read.parcel.fd == given.parcel.fd);
  CHECK(read.parcel.inode == given.parcel.inode);
  CHECK(read.parcel.count == given.parcel.count);
  for (unsigned i = 0; i < read.count; ++i) {
    CHECK(read.arenas[i].fd == given.arenas[i].fd);
    CHECK(read.arenas[i].inode == given.arenas[i].inode);
  }
  CHECK(parse_inheritance("8192:77;0;0:0:0").count == 1);
  CHECK(parse_inheritance("8192:77;0;0:0:0").parcel.fd == -1);
  CHECK(parse_inheritance(";0;0:9:1").parcel.fd == 0);
  given = {};
  CHECK(given.is_empty());
  given.parcel = {3, 9, 2};
  format_inheritance(given, text);
  CHECK(std::string(text) == "INLAY_ARENA=;0;3:9:2");
}

TEST_CASE("a variable that is not exactly of its form says nothing") {
  std::string too_many = "1:1";
  for (unsigned i = 0; i < kMaxInherited; ++i) too_many += ",1:1";
  for (const std::string &text : {std::string(),
                                  std::string(";0"),
                                  std::string("3"),
                                  std::string("3:4"),
                                  std::string("3:4;"),
                                  std::string("3:4;0"),
                                  std::string("3:4;0;"),
                                  std::string("3:4;0;0"),
                                  std::string("3:4;0;5:6:7 "),
                                  std::string("3:4;0;5:6"),
                                  std::string("3:4;0;5:6:"),
                                  std::string("3:4;0;5:6:7;"),
                                  std::string("3:4;0;5:6:7,8:9:1"),
                                  std::string(";0;2147483648:6:7"),
                                  std::string("3:4,;0;5:6:7"),
                                  std::string(",3:4;0;5:6:7"),
                                  std::string(":4;0;5:6:7"),
                                  std::string("3:;0;5:6:7"),
                                  std::string("-3:4;0;5:6:7"),
                                  std::string("+3:4;0;5:6:7"),
                                  std::string(" 3:4;0;5:6:7"),
                                  std::string("3:4:5;0;5:6:7"),
                                  std::string("2147483648:4;0;5:6:7"),
                                  std::string("3:18446744073709551616;0;5:6:7"),
                                  std::string("3:4;18446744073709551616;5:6:7"),
                                  too_many + ";0;5:6:7"}) {
    CAPTURE(text);
    CHECK(parse_inheritance(text.c_str()).is_empty());
  }
}

TEST_CASE("memory of an arena is found again by its descriptor and cannot change its size") {
  SharedMemory made = make_shared_memory(kSize, nullptr);
  REQUIRE(made.base != nullptr);
  REQUIRE(made.fd >= 0);
  CHECK((::fcntl(made.fd, F_GETFD) & FD_CLOEXEC) != 0);
  CHECK(::ftruncate(made.fd, 0) != 0);
  CHECK(::ftruncate(made.fd, 2 * kSize) != 0);
  std::memcpy(made.base, "shared", 7);
  SharedMemory mapped = map_inherited(::dup(made.fd), made.inode, kSize);
  REQUIRE(mapped.base != nullptr);
  CHECK(std::memcmp(mapped.base, "shared", 7) == 0);
  CHECK((::fcntl(mapped.fd, F_GETFD) & FD_CLOEXEC) != 0);
  for (const SharedMemory &memory : {made, mapped}) {
    ::munmap(memory.base, kSize);
    close_own(memory.fd);
  }
}

TEST_CASE("memory that replaces other memory is zero and another file") {
  SharedMemory first = make_shared_memory(kSize, nullptr);
  std::memcpy(first.base, "secret", 7);
  SharedMemory second = make_shared_memory(kSize, first.base);
  CHECK(second.base == first.base);
  CHECK(second.inode != first.inode);
  CHECK(second.base[0] == std::byte{0});
  close_own(first.fd);
  close_own(second.fd);
  ::munmap(second.base, kSize);
}

TEST_CASE("a forged descriptor is no arena, and is left as it was") {
  int unsealed = memfd(kSize, 0), growing = memfd(kSize, F_SEAL_SHRINK | F_SEAL_SEAL),
      shrinking = memfd(kSize, F_SEAL_GROW | F_SEAL_SEAL),
      open_ended = memfd(kSize, kSeals & ~F_SEAL_SEAL), small = memfd(kSize / 2, kSeals),
      large = memfd(2 * kSize, kSeals), good = memfd(kSize, kSeals), pipes[2];
  FILE *file = std::tmpfile();
  REQUIRE(::ftruncate(::fileno(file), kSize) == 0);
  REQUIRE(::pipe(pipes) == 0);
  for (int fd :
       {unsealed, growing, shrinking, open_ended, small, large, ::fileno(file), pipes[0]}) {
    CAPTURE(fd);
    CHECK(map_inherited(fd, inode_of(fd), kSize).base == nullptr);
    CHECK(is_open(fd));
    if (fd != ::fileno(file)) ::close(fd);
  }
  CHECK(map_inherited(good, inode_of(good) + 1, kSize).base == nullptr);
  CHECK(map_inherited(4000, 1, kSize).base == nullptr);
  CHECK(map_inherited(-1, 1, kSize).base == nullptr);
  if (::geteuid() == 0) {
    REQUIRE(::fchown(good, 65534, 65534) == 0);
    CHECK(map_inherited(good, inode_of(good), kSize).base == nullptr);
    REQUIRE(::fchown(good, 0, 0) == 0);
  }
  CHECK(is_shared_memory(good, inode_of(good), kSize));
  ::close(good);
  ::close(pipes[1]);
  std::fclose(file);
}

TEST_CASE("where no memfd can be had the memory is anonymous") {
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  rlimit low{kSize - 1, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &low);  // ftruncate beyond it would end the process
  SharedMemory limited = make_shared_memory(kSize, nullptr);
  ::setrlimit(RLIMIT_FSIZE, &before);
  boot::g_sandboxed = true;
  SharedMemory sandboxed = make_shared_memory(kSize, nullptr);
  boot::g_sandboxed = false;
  for (const SharedMemory &memory : {limited, sandboxed}) {
    REQUIRE(memory.base != nullptr);
    CHECK(memory.fd == -1);
    memory.base[kSize - 1] = std::byte{1};
    ::munmap(memory.base, kSize);
  }
}
