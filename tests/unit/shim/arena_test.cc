#include "shim/arena/arena.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "shim/arena/layout.h"
#include "shim/session/local.h"

using namespace inlay::shim;

namespace {

std::uint64_t next_cookie() {
  static std::uint64_t cookie = 1000;
  return ++cookie;
}

Slot *fresh() { return allocate_slot(next_cookie(), State::established); }

std::vector<Slot *> many(std::size_t count) {
  std::vector<Slot *> slots;
  while (slots.size() < count) {
    Slot *slot = fresh();
    REQUIRE(slot != nullptr);
    slots.push_back(slot);
  }
  return slots;
}

void free_all(const std::vector<Slot *> &slots) {
  for (Slot *slot : slots) free_slot(*slot);
}

std::vector<std::uint8_t> pattern(std::size_t length) {
  std::vector<std::uint8_t> bytes(length);
  for (std::size_t i = 0; i < length; ++i) bytes[i] = static_cast<std::uint8_t>(i * 31 + i / 251);
  return bytes;
}

// Bytes of address space this process uses.
rlim_t address_space() {
  std::ifstream statm("/proc/self/statm");
  rlim_t pages = 0;
  statm >> pages;
  return pages * 4096;
}

}  // namespace

TEST_CASE("20,000 connections have a session each, found by cookie") {
  std::vector<Slot *> slots = many(20000);
  CHECK(std::set<Slot *>(slots.begin(), slots.end()).size() == slots.size());
  std::size_t found = 0;
  for (Slot *slot : slots) {
    Local &mine = local(*slot);
    mine.descriptor = static_cast<std::uint32_t>(slot->cookie.load());
    found += find_slot(slot->cookie.load()) == slot;
  }
  CHECK(found == slots.size());
  std::size_t own = 0;
  for (Slot *slot : slots) own += local(*slot).descriptor == slot->cookie.load();
  CHECK(own == slots.size());
  free_all(slots);
}

TEST_CASE("what has become free in an older arena is used before there is another arena") {
  std::vector<Slot *> slots = many(2 * kSlotsPerArena + 1);
  unsigned arenas = arena_count();
  for (std::size_t round = 0; round < 3; ++round) {
    for (std::size_t i = round; i < slots.size(); i += 3) free_slot(*slots[i]);
    for (std::size_t i = round; i < slots.size(); i += 3) {
      slots[i] = fresh();
      REQUIRE(slots[i] != nullptr);
    }
  }
  CHECK(arena_count() == arenas);
  free_all(slots);
}

TEST_CASE(
    "without room for another arena there is no session, and there is one again after an end") {
  pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::vector<Slot *> slots = many(1);
    slots.reserve(1u << 20);
    rlim_t most = address_space() + (1u << 20);
    rlimit limit{most, most};
    if (setrlimit(RLIMIT_AS, &limit) != 0) _exit(2);
    Slot *slot = fresh();
    for (; slot != nullptr && slots.size() < slots.capacity(); slot = fresh())
      slots.push_back(slot);
    if (slot != nullptr) _exit(3);
    if (fresh() != nullptr) _exit(4);
    free_slot(*slots[slots.size() / 2]);
    if (fresh() == nullptr) _exit(5);
    _exit(fresh() == nullptr ? 0 : 6);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

TEST_CASE(
    "early data waits when its part of the pool is used up; a session that is up never does") {
  std::vector<Slot *> slots = many(kSlotsPerArena);
  Slot &greedy = *slots.front();
  std::vector<std::uint8_t> bytes = pattern(kChunkBytes * kEarlyChunks + 5);
  Queue &early = greedy.sending.early;
  CHECK(queue_append(greedy, early, bytes.data(), bytes.size()) == bytes.size() - 5);
  CHECK(queue_append(greedy, early, bytes.data(), 1) == 0);
  CHECK(early.length == bytes.size() - 5);
  std::vector<std::uint32_t> taken;
  for (Slot *slot : slots) {
    for (std::uint32_t i = 0; i < kChunksPerSlot; ++i) taken.push_back(take_chunk(*slot));
  }
  CHECK(std::count(taken.begin(), taken.end(), kNoChunk) == 0);
  for (std::uint32_t chunk : taken) return_chunk(greedy, chunk);

  // What waited is what was written.
  std::size_t at = 0;
  bool intact = true;
  while (early.length > 0) {
    std::span<std::uint8_t> front = queue_front(greedy, early);
    std::size_t part = std::min<std::size_t>(front.size(), 7001);
    intact = intact && std::memcmp(front.data(), bytes.data() + at, part) == 0;
    at += part;
    queue_pop(greedy, early, part);
  }
  CHECK(intact);
  CHECK(at == bytes.size() - 5);
  CHECK(queue_append(greedy, early, bytes.data(), 1) == 1);
  free_all(slots);

  // All of it came back.
  Slot *again = fresh();
  REQUIRE(again != nullptr);
  CHECK(queue_append(*again, again->sending.early, bytes.data(), bytes.size()) == bytes.size() - 5);
  free_slot(*again);
}

TEST_CASE(
    "an arena's pool used up gives no chunk, keeps what was written, and clears what comes back") {
  Slot *slot = fresh();
  Slot *other = fresh();
  REQUIRE(slot != nullptr);
  REQUIRE(other != nullptr);
  std::vector<std::uint32_t> taken;
  for (std::uint32_t chunk; (chunk = take_chunk(*slot)) != kNoChunk;) taken.push_back(chunk);
  CHECK(std::set<std::uint32_t>(taken.begin(), taken.end()).size() == taken.size());
  CHECK(taken.size() == kChunksPerArena);
  std::vector<std::uint8_t> bytes = pattern(kChunkBytes + 100);
  CHECK(queue_append(*other, other->sending.tail, bytes.data(), bytes.size()) == 0);
  CHECK(other->sending.tail.length == 0);
  CHECK(queue_front(*other, other->sending.tail).empty());
  return_chunk(*slot, taken.back());
  taken.pop_back();
  CHECK(queue_append(*other, other->sending.tail, bytes.data(), bytes.size()) == kChunkBytes);
  std::span<std::uint8_t> front = queue_front(*other, other->sending.tail);
  REQUIRE(front.size() == kChunkBytes);
  CHECK(std::memcmp(front.data(), bytes.data(), front.size()) == 0);
  queue_clear(*other, other->sending.tail);
  CHECK(std::all_of(front.begin(), front.end(), [](std::uint8_t byte) { return byte == 0; }));
  for (std::uint32_t chunk : taken) return_chunk(*slot, chunk);
  free_slot(*other);
  free_slot(*slot);
}

// --- fork and exec
// --------------------------------------------------------------------------------

TEST_CASE("a process that closes its arenas again and again does not run out of them") {
  for (unsigned i = 0; i < 3 * kMaxArenas; ++i) {
    Slot *slot = fresh();
    REQUIRE(slot != nullptr);
    free_slot(*slot);
    close_arenas();
  }
}

TEST_CASE("a program that locks all its memory does not get an arena's locked") {
  pid_t child = fork();
  if (child == 0) {
    if (mlockall(MCL_FUTURE) != 0) _exit(2);  // not ours to have
    auto locked = [] {
      std::ifstream status("/proc/self/status");
      for (std::string line; std::getline(status, line);) {
        if (line.starts_with("VmLck:")) return std::stol(line.substr(6));
      }
      return -1l;
    };
    long before = locked();
    close_arenas();
    Slot *slot = fresh();
    long after = locked();
    _exit(slot != nullptr && before >= 0 && after - before < 4096 ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 2) {
    MESSAGE("skipped: memory may not be locked here");
  } else {
    CHECK(WEXITSTATUS(status) == 0);
  }
}

TEST_CASE(
    "an arena with a session of this process stays as it is, and with one of others alone is given "
    "up") {
  Slot *kept = fresh();
  std::uint64_t cookie = kept->cookie;
  local(*kept).descriptor = 7;
  close_arenas();
  for (unsigned i = 0; i < 2 * kMaxArenas; ++i) {
    Slot *of_a_child = fresh();
    REQUIRE(of_a_child != nullptr);
    close_arenas();
  }
  CHECK(find_slot(cookie) == kept);
  CHECK(kept->cookie == cookie);
  local(*kept).descriptor = 0;
}

TEST_CASE("after an arena without a descriptor there is one with, as soon as it can be had") {
  pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    close_arenas();
    rlimit small{1 << 20, RLIM_INFINITY};  // of a file: a memfd is one
    if (setrlimit(RLIMIT_FSIZE, &small) != 0) _exit(2);
    Slot *first = fresh();
    if (first == nullptr || arena_descriptor(arena_of(*first)).fd >= 0) _exit(3);
    unsigned arenas = arena_count();
    Slot *second = fresh();
    if (second == nullptr || arena_count() != arenas) _exit(4);
    rlimit large{RLIM_INFINITY, RLIM_INFINITY};
    if (setrlimit(RLIMIT_FSIZE, &large) != 0) _exit(5);
    Slot *third = fresh();
    if (third == nullptr || arena_descriptor(arena_of(*third)).fd < 0) _exit(6);
    Slot *fourth = fresh();
    if (fourth == nullptr || arena_of(*fourth) != arena_of(*third)) _exit(7);
    _exit(find_slot(first->cookie) == first ? 0 : 8);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("an arena is taken over by its descriptor, with what is in it") {
  close_arenas();
  Slot *slot = fresh();
  std::strcpy(slot->peer_id, "spiffe://example.org/peer");
  ArenaDescriptor own = arena_descriptor(arena_of(*slot));
  REQUIRE(own.fd >= 0);
  CHECK(is_arena_descriptor(own.fd));
  unsigned before = arena_count();
  REQUIRE(adopt_arena({::dup(own.fd), own.inode}));
  REQUIRE(arena_count() == before + 1);
  Slot *same = arena_slot(before, slot->index);
  CHECK(same != slot);
  CHECK(std::string(same->peer_id) == "spiffe://example.org/peer");
  slot->bytes_in.store(77);
  CHECK(same->bytes_in.load() == 77);
  free_slot(*slot);
}

TEST_CASE("an arena of another build or another user is not taken over") {
  close_arenas();
  Slot *slot = fresh();
  ArenaDescriptor own = arena_descriptor(arena_of(*slot));
  struct stat info {};
  REQUIRE(::fstat(own.fd, &info) == 0);
  auto *words = static_cast<std::uint32_t *>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, own.fd, 0));
  REQUIRE(words != MAP_FAILED);
  for (unsigned word = 0; word < 4; ++word) {  // magic, version, size of a slot, uid
    CAPTURE(word);
    int copy = ::dup(own.fd);
    words[word] += 1;
    CHECK_FALSE(adopt_arena({copy, own.inode}));
    words[word] -= 1;
  }
  CHECK_FALSE(adopt_arena({own.fd, own.inode + 1}));
  CHECK(adopt_arena({::dup(own.fd), own.inode}));
  ::munmap(words, 4096);
  free_slot(*slot);
}

namespace {

// Runs `body` where the slot's arena is not mapped; true when it returned true and did not crash.
template <typename F>
bool elsewhere(F &&body) {
  pid_t child = ::fork();
  if (child == 0) ::_exit(body() ? 0 : 1);
  int status = -1;
  return ::waitpid(child, &status, 0) == child && status == 0;
}

// The memory of an arena as a process of its own finds it: made anew, no mapping of it known here.
struct Memory {
  int fd;
  std::uint64_t inode;
  std::byte *base;
  std::size_t size;
};
Memory copy_of(const Slot &slot) {
  ArenaDescriptor arena = arena_descriptor(arena_of(slot));
  struct stat info {};
  REQUIRE(::fstat(arena.fd, &info) == 0);
  int copy = ::memfd_create("copy", MFD_ALLOW_SEALING);
  REQUIRE(::ftruncate(copy, info.st_size) == 0);
  REQUIRE(::fcntl(copy, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
  auto size = static_cast<std::size_t>(info.st_size);
  void *from = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, arena.fd, 0);
  void *to = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, copy, 0);
  REQUIRE(from != MAP_FAILED);
  REQUIRE(to != MAP_FAILED);
  constexpr std::size_t kUsed = 4 << 20;  // behind it nothing was written yet
  std::memcpy(to, from, kUsed);
  ::munmap(from, size);
  struct stat made {};
  REQUIRE(::fstat(copy, &made) == 0);
  return {copy, made.st_ino, static_cast<std::byte *>(to), size};
}

}  // namespace

TEST_CASE("an arena of another process tree is found by its cookie, and mapped once") {
  close_arenas();
  Slot *slot = fresh();
  slot->direction = inlay::policy::Direction::inbound;
  std::uint64_t cookie = slot->cookie;
  ArenaDescriptor own = arena_descriptor(arena_of(*slot));
  std::uint64_t inode = 0;
  CHECK(is_arena_with(own.fd, cookie, &inode));
  CHECK(inode == own.inode);
  CHECK(is_mapped_arena(inode));
  CHECK_FALSE(is_arena_with(own.fd, cookie + 1000, &inode));
  CHECK_FALSE(is_arena_with(own.fd, 0, &inode));
  CHECK_FALSE(is_arena_with(0, cookie, &inode));
  CHECK_FALSE(is_arena_with(-1, cookie, &inode));

  Memory memory = copy_of(*slot);
  CHECK(is_arena_with(memory.fd, cookie, &inode));
  CHECK_FALSE(is_mapped_arena(memory.inode));
  unsigned before = arena_count();
  Slot *theirs = join_arena({::dup(memory.fd), memory.inode}, cookie, 77);
  REQUIRE(theirs != nullptr);
  unsigned with_it = arena_count();
  CHECK(with_it <= before + 1);  // in the place of one that is used up, where there is one
  CHECK(is_foreign_arena(arena_of(*theirs)));
  CHECK(is_sound(*theirs));
  CHECK(local(*theirs).descriptor == 78);
  CHECK(local(*theirs).inherited);
  CHECK(join_arena({::dup(memory.fd), memory.inode}, cookie, 79) == theirs);
  CHECK(join_arena({::dup(memory.fd), memory.inode}, cookie + 1000, 80) == nullptr);
  CHECK(arena_count() == with_it);
  CHECK(is_mapped_arena(memory.inode));
  note_own_id("spiffe://example.org/own");
  CHECK(own_id_in_arena(arena_of(*slot)) == "spiffe://example.org/own");
  CHECK(own_id_in_arena(arena_of(*theirs)) == "");  // its owner's to say

  // Nothing new goes there, and fork leaves it to those whose it is.
  for (Slot *mine : many(10)) {
    CHECK_FALSE(is_foreign_arena(arena_of(*mine)));
    free_slot(*mine);
  }
  local(*theirs).descriptor = 0;
  free_slot(*slot);
  ::close(memory.fd);
  ::munmap(memory.base, memory.size);
}

TEST_CASE("no session goes to an arena before all of it is there") {
  close_arenas();
  Slot *slot = fresh();
  local(*slot).descriptor = 1;  // this arena is in use
  // What takes the place of a used-up arena is seen by other threads while it is made.
  ArenaDescriptor own = arena_descriptor(arena_of(*slot));
  auto *magic = static_cast<std::uint32_t *>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, own.fd, 0));
  REQUIRE(magic != MAP_FAILED);
  REQUIRE(*magic == kArenaMagic);
  *magic = 0;
  Slot *elsewhere = fresh();
  CHECK(arena_of(*elsewhere) != arena_of(*slot));
  *magic = kArenaMagic;
  ::munmap(magic, 4096);
  local(*slot).descriptor = 0;
  free_slot(*elsewhere);
  free_slot(*slot);
}

TEST_CASE("slots of an arena that another process tree has mapped are used once") {
  close_arenas();
  Slot *slot = fresh();
  Memory memory = copy_of(*slot);
  Slot *theirs = join_arena({::dup(memory.fd), memory.inode}, slot->cookie, 77);
  REQUIRE(theirs != nullptr);
  unsigned foreign = arena_of(*theirs);
  // The copy as its owner sees it: adopted before its slots are freed and allocated again.
  CHECK(adopt_arena({::dup(memory.fd), memory.inode}));
  unsigned owners = arena_count() - 1;
  CHECK_FALSE(is_foreign_arena(owners));
  std::set<std::uint32_t> used{theirs->index};
  for (int i = 0; i < 20; ++i) {
    Slot *next = fresh();
    REQUIRE(arena_of(*next) == owners);
    CHECK(used.insert(next->index).second);
    free_slot(*next);
  }
  CHECK(arena_high_water(foreign) >= 20);
  local(*theirs).descriptor = 0;
  close_arena(owners);
  ::close(memory.fd);
  ::munmap(memory.base, memory.size);
}

TEST_CASE("a forged arena is not believed, and crashes nobody") {
  close_arenas();
  Slot *slot = fresh();
  slot->direction = inlay::policy::Direction::inbound;
  const std::uint64_t cookie = slot->cookie;
  std::uint8_t byte = 1;
  queue_append(*slot, slot->sending.tail, &byte, 1);
  Memory memory = copy_of(*slot);
  std::uint64_t inode = 0;
  auto *words = reinterpret_cast<std::uint32_t *>(memory.base);
  for (unsigned word = 0; word < 4; ++word) {  // magic, version, size of a slot, uid
    CAPTURE(word);
    words[word] += 1;
    CHECK_FALSE(is_arena_with(memory.fd, cookie, &inode));
    words[word] -= 1;
  }
  REQUIRE(is_arena_with(memory.fd, cookie, &inode));

  // Every word of the header behind those, and of the slot, in turn: whatever a process that joins
  // it and ends it finds there, it lives.
  REQUIRE(slot == arena_slot(arena_of(*slot), 0));
  constexpr std::size_t kHead = kSlotsAt + 8192, kTail = std::size_t{8} * kChunkSize;
  std::vector<std::size_t> places;
  for (std::size_t at = 16; at < sizeof(Header); at += 4) places.push_back(at);
  for (std::size_t at = 8; at < sizeof(Slot); at += 4) places.push_back(kSlotsAt + at);
  for (std::size_t at = 0; at < 16; at += 4) places.push_back(kChunksAt + at);
  std::vector<std::byte> head(memory.base, memory.base + kHead);
  std::vector<std::byte> tail(memory.base + kChunksAt, memory.base + kChunksAt + kTail);
  for (std::size_t at : places) {
    for (std::uint32_t value : {0xffffffffu, 0x7fffffffu, 100000u, 0x12345678u}) {
      std::memcpy(memory.base + at, &value, sizeof value);
      bool lives = elsewhere([&] {
        // A lock that a live thread seems to hold is waited for; nobody need wait here.
        ::alarm(5);
        ::signal(SIGALRM, [](int) { ::_exit(0); });
        std::uint64_t found = 0;
        if (!is_arena_with(memory.fd, cookie, &found)) return true;
        Slot *theirs = join_arena({::dup(memory.fd), memory.inode}, cookie, 77);
        if (theirs == nullptr || !is_sound(*theirs)) return true;
        std::vector<std::uint8_t> much(100000, 7);
        queue_append(*theirs, theirs->sending.tail, much.data(), much.size());
        volatile std::uint8_t sum = 0;
        for (std::uint8_t one : queue_front(*theirs, theirs->sending.tail)) sum = sum ^ one;
        queue_pop(*theirs, theirs->sending.tail, 3);
        take_chunk(*theirs);
        free_slot(*theirs);
        return true;
      });
      CAPTURE(at);
      CAPTURE(value);
      CHECK(lives);
      std::memcpy(memory.base, head.data(), kHead);
      std::memcpy(memory.base + kChunksAt, tail.data(), kTail);
    }
  }
  ::close(memory.fd);
  ::munmap(memory.base, memory.size);
  free_slot(*slot);
}
