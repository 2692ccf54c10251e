#include "shim/boot/heap.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "identity/memory.h"

namespace boot = inlay::shim::boot;

namespace {

struct Block {
  unsigned char *bytes;
  std::size_t size;
  unsigned char fill;
};

bool intact(const Block &block) {
  for (std::size_t i = 0; i < block.size; ++i) {
    if (block.bytes[i] != block.fill) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("blocks of every size are aligned, writable and apart") {
  std::vector<Block> blocks;
  for (std::size_t size : {0u,    1u,     15u,    16u,    17u,    63u,    64u,      65u,
                           80u,   81u,    127u,   128u,   129u,   1000u,  4095u,    4096u,
                           4097u, 20000u, 32767u, 32768u, 32769u, 65536u, 1048576u, 5000000u}) {
    for (int i = 0; i < 3; ++i) {
      auto *bytes = static_cast<unsigned char *>(boot::allocate(size));
      REQUIRE(bytes != nullptr);
      CHECK(reinterpret_cast<std::uintptr_t>(bytes) % 16 == 0);
      auto fill = static_cast<unsigned char>(blocks.size() + 1);
      std::memset(bytes, fill, size);
      blocks.push_back({bytes, size, fill});
    }
  }
  for (const Block &block : blocks) CHECK(intact(block));
  for (const Block &block : blocks) boot::release(block.bytes);
}

TEST_CASE("a released block is used again") {
  void *first = boot::allocate(200);
  boot::release(first);
  void *second = boot::allocate(200);
  CHECK(first == second);
  boot::release(second);
}

TEST_CASE("a size asked for once costs a page or two, not all that may come of it") {
  std::vector<void *> blocks;
  blocks.reserve(100);
  struct rusage before, after;
  REQUIRE(getrusage(RUSAGE_SELF, &before) == 0);
  for (std::size_t size = 16; size <= 32768; size += size / 4) {
    void *block = boot::allocate(size);
    REQUIRE(block != nullptr);
    *static_cast<char *>(block) = 1;
    blocks.push_back(block);
  }
  REQUIRE(getrusage(RUSAGE_SELF, &after) == 0);
  // The kernel gives a page at the first touch.
  CHECK(after.ru_minflt - before.ru_minflt <= 3 * static_cast<long>(blocks.size()));
  for (void *block : blocks) boot::release(block);
}

TEST_CASE("alignments up to a page hold") {
  for (std::size_t alignment = 16; alignment <= 4096; alignment *= 2) {
    for (std::size_t size : {1u, 100u, 5000u, 40000u}) {
      std::vector<void *> blocks;
      for (int i = 0; i < 20; ++i) {
        void *block = boot::allocate_aligned(size, alignment);
        REQUIRE(block != nullptr);
        CHECK(reinterpret_cast<std::uintptr_t>(block) % alignment == 0);
        std::memset(block, 1, size);
        blocks.push_back(block);
      }
      for (void *block : blocks) boot::release(block);
    }
  }
}

TEST_CASE("reallocate keeps the bytes") {
  auto *block = static_cast<unsigned char *>(boot::reallocate(nullptr, 10));
  std::memset(block, 7, 10);
  for (std::size_t size : {20u, 3000u, 40000u, 2000000u, 500000u, 100u, 10u}) {
    block = static_cast<unsigned char *>(boot::reallocate(block, size));
    REQUIRE(block != nullptr);
    CHECK(intact({block, 10, 7}));
  }
  boot::release(block);
}

TEST_CASE("a size nobody can have is refused") {
  CHECK(boot::allocate(SIZE_MAX) == nullptr);
  CHECK(boot::allocate(SIZE_MAX / 2) == nullptr);
}

TEST_CASE("threads do not see each other's blocks") {
  auto work = [](unsigned seed, bool *good) {
    std::mt19937 random(seed);
    std::vector<Block> blocks;
    *good = true;
    for (int i = 0; i < 20000; ++i) {
      if (blocks.size() < 100 || random() % 2 == 0) {
        std::size_t size = random() % (random() % 50 == 0 ? 100000 : 2000);
        auto *bytes = static_cast<unsigned char *>(boot::allocate(size));
        auto fill = static_cast<unsigned char>(seed * 50 + random() % 50);
        std::memset(bytes, fill, size);
        blocks.push_back({bytes, size, fill});
      } else {
        std::size_t victim = random() % blocks.size();
        *good = *good && intact(blocks[victim]);
        boot::release(blocks[victim].bytes);
        blocks[victim] = blocks.back();
        blocks.pop_back();
      }
    }
    for (const Block &block : blocks) {
      *good = *good && intact(block);
      boot::release(block.bytes);
    }
  };
  bool good[3];
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 3; ++i) threads.emplace_back(work, i + 1, &good[i]);
  for (std::thread &thread : threads) thread.join();
  for (bool each : good) CHECK(each);
}

TEST_CASE("a child forked while other threads allocate can allocate") {
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop) boot::release(boot::allocate(100));
  });
  for (int i = 0; i < 50; ++i) {
    boot::heap_before_fork();
    pid_t pid = fork();
    boot::heap_after_fork();
    if (pid == 0) {
      boot::release(boot::allocate(100));
      _exit(0);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    CHECK(status == 0);
  }
  stop = true;
  busy.join();
}

TEST_CASE("a request that is not served is noted for whoever judges by what OpenSSL says") {
  const inlay::identity::MemoryWatch watch;
  void *served = boot::allocate(100);
  CHECK_FALSE(watch.ran_out());
  CHECK(boot::allocate(SIZE_MAX) == nullptr);
  CHECK(watch.ran_out());
  boot::release(served);
}
