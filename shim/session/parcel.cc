#include "shim/session/parcel.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "shim/arena/kernel.h"
#include "shim/boot/room.h"
#include "shim/session/lifetime.h"

namespace inlay::shim {
namespace {

// A message's bytes are the numbers, its control data the descriptors.
struct Message {
  explicit Message(std::int32_t (&numbers)[kInOneMessage]) noexcept
      : bytes{numbers, sizeof numbers}, header{} {
    header.msg_iov = &bytes;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
  }
  Message(const Message &) = delete;

  iovec bytes;
  msghdr header;
  alignas(cmsghdr) char control[CMSG_SPACE(kInOneMessage * sizeof(int))];
};

long send_message(int fd, const msghdr &message) noexcept {
  constexpr int kFlags = MSG_DONTWAIT | MSG_NOSIGNAL;
  long sent = -EINTR;
  while (sent == -EINTR) sent = kernel::call(SYS_sendmsg, fd, kernel::word(&message), kFlags);
  return sent;
}

// How many bytes came; 0 at the end of the queue.
std::size_t receive_message(int fd, msghdr &message) noexcept {
  long got = -EINTR;
  while (got == -EINTR) {
    got = kernel::call(SYS_recvmsg, fd, kernel::word(&message), MSG_DONTWAIT);
  }
  return got > 0 ? static_cast<std::size_t>(got) : 0;
}

// The first is empty.
bool receive_nothing(int fd) noexcept {
  long got = -EINTR;
  char byte;
  while (got == -EINTR) got = kernel::receive(fd, &byte, sizeof byte, MSG_DONTWAIT);
  return got == 0;
}

bool is_socket(int fd, std::uint64_t inode) noexcept {
  struct stat info {};
  return kernel::call(SYS_fstat, fd, kernel::word(&info)) == 0 && S_ISSOCK(info.st_mode) &&
         info.st_ino == inode;
}

bool put(int fd, int number) noexcept {
  return kernel::call(SYS_dup3, fd, number, 0) == number;
}

// Closed, or a place that the parcel keeps.
bool is_free(int number, const ParcelDescriptor &parcel) noexcept {
  if (number == parcel.fd) return false;
  return kernel::call(SYS_fcntl, number, F_GETFD) < 0 || is_socket(number, parcel.inode);
}

}  // namespace

Parcel::~Parcel() {
  let_go(sending_);
  let_go(receiving_);
}

void Parcel::let_go(int fd) const noexcept {
  if (borrowed_ && fd >= 0) kernel::close(fd);
  if (!borrowed_) close_own(fd);
}

bool Parcel::make_pair() noexcept {
  int pair[2];
  long made =
      kernel::call(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, kernel::word(pair));
  if (made != 0) return false;
  for (int *end : {&pair[0], &pair[1]}) {
    if (borrowed_) continue;
    if (int own = make_own(*end); own >= 0) {
      *end = own;
      continue;
    }
    kernel::close(pair[0]);
    kernel::close(pair[1]);
    return false;
  }
  sending_ = pair[0];
  receiving_ = pair[1];
  return true;
}

bool Parcel::begin(bool borrowed) noexcept {
  borrowed_ = borrowed;
  if (!make_pair()) {
    boot::Room room;
    if (!make_pair()) return false;
  }
  struct stat info {};
  if (kernel::call(SYS_fstat, receiving_, kernel::word(&info)) != 0) return false;
  inode_ = info.st_ino;
  const int room = 1 << 20;  // as much as the kernel lets it have
  kernel::set_option(sending_, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  return send_message(sending_, msghdr{}) == 0;
}

void Parcel::add(int number, int source, bool borrowed) noexcept {
  if (count_++ == 0) failed_ = !begin(borrowed);
  // 0 to 2 are covered by the socket, the numbers behind them free: never both in one message,
  // whose descriptors are received under the lowest free numbers.
  bool is_full = pending_ == kInOneMessage;
  if (is_full || (pending_ > 0 && number > 2 && numbers_[pending_ - 1] <= 2)) send();
  numbers_[pending_] = number;
  sources_[pending_++] = source;
}

void Parcel::send() noexcept {
  std::size_t size = std::exchange(pending_, 0) * sizeof(int);
  if (failed_ || size == 0) return;
  Message message(numbers_);
  message.bytes.iov_len = size;
  message.header.msg_controllen = CMSG_SPACE(size);
  cmsghdr *rights = CMSG_FIRSTHDR(&message.header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(size);
  std::memcpy(CMSG_DATA(rights), sources_, size);
  failed_ = send_message(sending_, message.header) != static_cast<long>(size);
  if (!failed_) sent_ += static_cast<unsigned>(size / sizeof(int));
}

bool Parcel::seal() noexcept {
  send();
  return !failed_;
}

std::size_t Parcel::take_numbers(std::int32_t (&numbers)[kInOneMessage]) const noexcept {
  iovec bytes{numbers, sizeof numbers};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  if (receiving_ < 0) return 0;
  // The first one is empty.
  std::size_t got = receive_message(receiving_, message);
  return (got > 0 ? got : receive_message(receiving_, message)) / sizeof numbers[0];
}

bool unpack(const ParcelDescriptor &parcel) noexcept {
  if (parcel.fd < 0) return true;
  if (!is_socket(parcel.fd, parcel.inode) || !receive_nothing(parcel.fd)) return false;
  std::uint64_t there = 0;
  // The image before may have had numbers above its limit, or have left no other number free.
  boot::Room room;
  int in_its_place = -1;
  std::int32_t numbers[kInOneMessage];
  for (;;) {
    Message message(numbers);
    std::size_t bytes = receive_message(parcel.fd, message.header);
    if (bytes == 0) break;
    std::size_t count = bytes / sizeof numbers[0];
    const cmsghdr *rights = CMSG_FIRSTHDR(&message.header);
    if (rights == nullptr || rights->cmsg_type != SCM_RIGHTS) continue;
    std::size_t received = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    // Each came under a number not above its own, and no lower one's: the highest is moved first.
    for (std::size_t i = received; i-- > 0;) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(rights) + i * sizeof fd, sizeof fd);
      if (i < count && numbers[i] == fd) {
        ++there;
      } else if (i < count && numbers[i] == parcel.fd && in_its_place < 0) {
        in_its_place = fd;
      } else {
        there += i < count && is_free(numbers[i], parcel) && put(fd, numbers[i]);
        kernel::close(fd);
      }
    }
  }
  if (in_its_place >= 0) {
    there += put(in_its_place, parcel.fd);
    kernel::close(in_its_place);
  } else {
    kernel::close(parcel.fd);
  }
  return there == parcel.count;
}

}  // namespace inlay::shim
