#include "shim/arena/arena.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <set>
#include <vector>

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
  for (int round = 0; round < 3; ++round) {
    for (std::size_t i = round; i < slots.size(); i += 3) free_slot(*slots[i]);
    for (std::size_t i = round; i < slots.size(); i += 3) {
      slots[i] = fresh();
      REQUIRE(slots[i] != nullptr);
    }
  }
  CHECK(arena_count() == arenas);
  free_all(slots);
}

TEST_CASE("without room for another arena there is no session, and there is one again after an end") {
  pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::vector<Slot *> slots = many(1);
    slots.reserve(1u << 20);
    rlim_t most = address_space() + (1u << 20);
    rlimit limit{most, most};
    if (setrlimit(RLIMIT_AS, &limit) != 0) _exit(2);
    Slot *slot = fresh();
    for (; slot != nullptr && slots.size() < slots.capacity(); slot = fresh()) slots.push_back(slot);
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

TEST_CASE("early data waits when its part of the pool is used up; a session that is up never does") {
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

TEST_CASE("an arena's pool used up gives no chunk, keeps what was written, and clears what comes back") {
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

// --- fork and exec --------------------------------------------------------------------------------

TEST_CASE("a process that closes its arenas again and again does not run out of them") {
  for (unsigned i = 0; i < 3 * kMaxArenas; ++i) {
    Slot *slot = fresh();
    REQUIRE(slot != nullptr);
    free_slot(*slot);
    close_arenas();
  }
}

TEST_CASE("an arena with a session of this process stays as it is, and with one of others alone is given up") {
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
