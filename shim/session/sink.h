// The program's receive buffers, filled from the front.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

namespace inlay::shim {

class Sink {
 public:
  // `over`: the first so many bytes go nowhere (SO_PEEK_OFF).
  Sink(std::span<const iovec> parts, bool discard, std::size_t over = 0) noexcept
      : parts_(parts), room_(over), over_(over), discard_(discard) {
    for (const iovec &part : parts) room_ += part.iov_len;
    skip_empty();
  }
  std::size_t room() const noexcept { return room_; }
  std::size_t delivered() const noexcept { return delivered_; }
  // With those that went nowhere.
  std::size_t passed() const noexcept { return passed_; }

  // Where the next bytes go, and how many fit there in one piece.
  std::span<std::uint8_t> front() const noexcept {
    if (discard_ || index_ == parts_.size()) return {};
    const iovec &part = parts_[index_];
    return {static_cast<std::uint8_t *>(part.iov_base) + offset_, part.iov_len - offset_};
  }
  void advance(std::size_t length) noexcept {
    room_ -= length;
    delivered_ += length;
    passed_ += length;
    while (length > 0) {
      std::size_t step = std::min(length, parts_[index_].iov_len - offset_);
      offset_ += step;
      length -= step;
      skip_empty();
    }
  }
  void put(const std::uint8_t *bytes, std::size_t length) noexcept {
    std::size_t over = std::min(length, over_);
    over_ -= over;
    room_ -= over;
    passed_ += over;
    bytes += over;
    length -= over;
    while (length > 0) {
      std::span<std::uint8_t> to = front();
      std::size_t step = discard_ ? length : std::min(length, to.size());
      if (!discard_) std::memcpy(to.data(), bytes, step);
      advance(step);
      bytes += step;
      length -= step;
    }
  }

 private:
  void skip_empty() noexcept {
    while (index_ < parts_.size() && offset_ == parts_[index_].iov_len) {
      ++index_;
      offset_ = 0;
    }
  }

  std::span<const iovec> parts_;
  std::size_t index_ = 0;
  std::size_t offset_ = 0;
  std::size_t room_;
  std::size_t over_;
  std::size_t delivered_ = 0;
  std::size_t passed_ = 0;
  bool discard_;
};

}  // namespace inlay::shim
