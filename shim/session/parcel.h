// Managed connections on their way to the image that is executed next.
//
// They do not go as open descriptors. An image that finds them open and has no hooks writes into
// the records in the clear, and whether the loader will have room and descriptors for libinlay.so
// nobody knows beforehand: where it has not it says so, and starts the program. So they lie in the
// queue of a socket, which the library's constructor empties:
//
//   this image                                      the next image
//   add() each, seal()   --> a pair of sockets      unpack(): gives each its number again
//                            one end is inherited
//
// Whoever takes that end for something else reads its end first, and writes get EPIPE. What is not
// taken out ends with the socket: the peer sees the connection end.
//
// unix(7), SCM_RIGHTS. Not sent, and so ended: what is more than the queue holds (about 40,000), or
// than the user may have in flight (RLIMIT_NOFILE), and a number that even the hard limit forbids.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shim/arena/inheritance.h"

namespace inlay::shim {

inline constexpr unsigned kInOneMessage = 128;  // the kernel takes 253 (SCM_MAX_FD)

class Parcel {
 public:
  Parcel() noexcept = default;
  ~Parcel();
  Parcel(const Parcel &) = delete;
  Parcel &operator=(const Parcel &) = delete;

  // In ascending order of `number`, under which the next image finds what is `source` here.
  // `borrowed`: this is a vfork child, whose words of descriptors are its parent's.
  void add(int number, int source, bool borrowed) noexcept;
  // When all were added. False when some could not be sent: they end with this image.
  bool seal() noexcept;
  bool is_empty() const noexcept { return count_ == 0; }

  // What the next image inherits, close-on-exec here; -1: there is none.
  int end() const noexcept { return receiving_; }
  // The same, for the next image, which has it as `number`.
  ParcelDescriptor named(int number) const noexcept { return {number, inode_, sent_}; }

  // Calls visit(number) for each that was sent. Empties it.
  template <typename F>
  void take_back(F &&visit) noexcept;

 private:
  bool begin(bool borrowed) noexcept;
  bool make_pair() noexcept;
  void let_go(int fd) const noexcept;
  void send() noexcept;
  // The numbers of one message, without the descriptors; 0 at the end.
  std::size_t take_numbers(std::int32_t (&numbers)[kInOneMessage]) const noexcept;

  int sending_ = -1, receiving_ = -1;
  std::uint64_t inode_ = 0;  // of the receiving end
  unsigned count_ = 0, pending_ = 0, sent_ = 0;
  bool borrowed_ = false, failed_ = false;
  std::int32_t numbers_[kInOneMessage], sources_[kInOneMessage];
};

template <typename F>
void Parcel::take_back(F &&visit) noexcept {
  std::int32_t numbers[kInOneMessage];
  while (std::size_t count = take_numbers(numbers)) {
    for (std::size_t i = 0; i < count; ++i) visit(static_cast<int>(numbers[i]));
  }
}

// In the next image, before it opens anything. Puts the connections where they belong, if nothing
// else is there by now; leaves alone what is no parcel. False when one of them is lost.
bool unpack(const ParcelDescriptor &parcel) noexcept;

}  // namespace inlay::shim
