// Chains of chunks in the arena's pool. Numbers in the memory may have been written by another
// process: whatever they are, nothing outside it is touched.
#include <algorithm>
#include <cstring>

#include "shim/arena/arena.h"

namespace inlay::shim {
namespace {

std::size_t end_of(const Chunk &chunk) noexcept {
  return std::min<std::size_t>(chunk.end, kChunkBytes);
}
std::size_t begin_of(const Chunk &chunk, std::size_t end) noexcept {
  return std::min<std::size_t>(chunk.begin, end);
}

}  // namespace

std::size_t queue_append(Slot &slot, Queue &queue, const std::uint8_t *bytes,
                         std::size_t length) noexcept {
  std::size_t done = 0;
  while (done < length) {
    if (queue.last == kNoChunk || chunk_at(slot, queue.last).end >= kChunkBytes) {
      std::uint32_t fresh = take_chunk(slot, &queue == &slot.sending.early);
      if (fresh == kNoChunk) break;
      if (queue.last == kNoChunk) {
        queue.first = fresh;
      } else {
        chunk_at(slot, queue.last).next = fresh;
      }
      queue.last = fresh;
    }
    Chunk &chunk = chunk_at(slot, queue.last);
    std::size_t end = end_of(chunk);
    std::size_t part = std::min(length - done, kChunkBytes - end);
    std::memcpy(chunk.bytes + end, bytes + done, part);
    chunk.end = static_cast<std::uint32_t>(end + part);
    queue.length += part;
    done += part;
  }
  return done;
}

std::span<std::uint8_t> queue_front(Slot &slot, Queue &queue) noexcept {
  if (queue.first == kNoChunk) return {};
  Chunk &chunk = chunk_at(slot, queue.first);
  std::size_t end = end_of(chunk);
  std::size_t begin = begin_of(chunk, end);
  return {chunk.bytes + begin, end - begin};
}

void queue_pop(Slot &slot, Queue &queue, std::size_t length) noexcept {
  while (length > 0 && queue.first != kNoChunk) {
    std::uint32_t first = queue.first;
    Chunk &chunk = chunk_at(slot, first);
    std::size_t end = end_of(chunk);
    std::size_t begin = begin_of(chunk, end);
    std::size_t part = std::min(length, end - begin);
    chunk.begin = static_cast<std::uint32_t>(begin + part);
    queue.length -= part;
    length -= part;
    if (begin + part < end) break;
    queue.first = chunk.next;
    if (queue.first == kNoChunk) queue.last = kNoChunk;
    return_chunk(slot, first);
  }
}

void queue_clear(Slot &slot, Queue &queue) noexcept {
  while (queue.first != kNoChunk) {
    std::uint32_t first = queue.first;
    queue.first = chunk_at(slot, first).next;
    return_chunk(slot, first);
  }
  queue = Queue{};
}

}  // namespace inlay::shim
