#include "shim/boot/streams.h"

#include <link.h>
#include <stdio_ext.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/single_threaded.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <span>
#include <utility>

#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/hooks/next.h"

#undef p_type  // <resolv.h>'s

// The C library's list of its streams.
extern "C" {
void _IO_list_lock(void);
void _IO_list_unlock(void);
void _IO_list_resetlock(void);
FILE *_IO_iter_begin(void);
FILE *_IO_iter_end(void);
FILE *_IO_iter_next(FILE *);
FILE *_IO_iter_file(FILE *);
}

namespace inlay::shim::boot {
namespace {

// What is read-only after relocation (PT_GNU_RELRO) in the object that holds `address`.
struct ReadOnly {
  std::uintptr_t address;
  std::uintptr_t begin = 0, end = 0;
};

int find_read_only(dl_phdr_info *object, std::size_t, void *wanted) noexcept {
  auto &found = *static_cast<ReadOnly *>(wanted);
  std::span headers(object->dlpi_phdr, object->dlpi_phnum);
  bool holds = false;
  for (const auto &header : headers) {
    holds |= header.p_type == PT_LOAD &&
             found.address - (object->dlpi_addr + header.p_vaddr) < header.p_memsz;
  }
  if (!holds) return 0;
  for (const auto &header : headers) {
    if (header.p_type != PT_GNU_RELRO) continue;
    found.begin = object->dlpi_addr + header.p_vaddr;
    found.end = found.begin + header.p_memsz;
  }
  return 1;
}

struct Entry {
  std::uintptr_t its_own, hook;
  std::size_t least;  // so many tables have it in every version: of bytes, of wide characters
  std::size_t replaced = 0;
};

template <typename Function>
std::uintptr_t address_of(Function *function) noexcept {
  return reinterpret_cast<std::uintptr_t>(function);
}

bool set_protection(const ReadOnly &part, int protection) noexcept {
  // As the loader rounds: the last page may hold what is written later.
  std::uintptr_t page = getauxval(AT_PAGESZ);
  std::uintptr_t begin = part.begin & -page, end = part.end & -page;
  return begin == end || kernel::call(SYS_mprotect, static_cast<long>(begin),
                                      static_cast<long>(end - begin), protection) == 0;
}

// The list's lock held.
template <typename Act>
void visit_streams(Act act) noexcept {
  for (FILE *one = _IO_iter_begin(); one != _IO_iter_end(); one = _IO_iter_next(one)) {
    act(_IO_iter_file(one));
  }
}

bool g_held_for_fork = false;  // by the forking thread, which alone looks at it

}  // namespace

bool point_streams_at_hooks() noexcept {
  Entry entries[] = {{address_of(next._IO_file_read), address_of(_IO_file_read), 2},
                     {address_of(next._IO_file_write), address_of(_IO_file_write), 2},
                     {address_of(next._IO_file_close), address_of(_IO_file_close), 2},
                     {address_of(next._IO_proc_close), address_of(_IO_proc_close), 1}};
  ReadOnly part{.address = entries[0].its_own};
  dl_iterate_phdr(find_read_only, &part);
  if (part.begin == 0 || !set_protection(part, PROT_READ | PROT_WRITE)) return false;
  auto *words = reinterpret_cast<std::uintptr_t *>((part.begin + 7) & ~std::uintptr_t{7});
  for (std::uintptr_t &word : std::span(words, (part.end - address_of(words)) / sizeof *words)) {
    for (Entry &entry : entries) {
      if (word != entry.its_own) continue;
      word = entry.hook;
      ++entry.replaced;
    }
  }
  bool complete = set_protection(part, PROT_READ);
  for (const Entry &entry : entries) complete &= entry.replaced >= entry.least;
  return complete;
}

void flush_streams() noexcept {
  _IO_list_lock();
  visit_streams([](FILE *stream) {
    if (__fpending(stream) == 0 || managed(stream->_fileno) == nullptr) return;
    // As the C library ends: a thread that waits in a call on the stream has its lock for good.
    bool locked = ftrylockfile(stream) == 0;
    fflush_unlocked(stream);
    if (locked) funlockfile(stream);
  });
  _IO_list_unlock();
}

void streams_before_fork() noexcept {
  if (__libc_single_threaded) return;
  _IO_list_lock();
  g_held_for_fork = true;
}

void streams_after_fork_parent() noexcept {
  if (!std::exchange(g_held_for_fork, false)) return;
  _IO_list_unlock();
}

void streams_after_fork_child() noexcept {
  if (std::exchange(g_held_for_fork, false)) _IO_list_resetlock();
}

}  // namespace inlay::shim::boot
