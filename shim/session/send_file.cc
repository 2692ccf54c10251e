// sendfile and copy_file_range to a managed socket: the file is read and sealed; what the socket
// did not take is not consumed from the file.
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "shim/session/internal.h"
#include "shim/session/session.h"

namespace inlay::shim {

ssize_t send_file(Slot &slot, int fd, int from, off64_t *offset, std::size_t count) noexcept {
  const int entry_errno = errno;
  // sendfile is no cancellation point; the calls below are.
  struct NoCancel {
    int before;
    NoCancel() { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before); }
    ~NoCancel() { pthread_setcancelstate(before, nullptr); }
  } no_cancel;
  off64_t at = offset != nullptr ? *offset : lseek64(from, 0, SEEK_CUR);
  if (at < 0) {
    errno = EINVAL;  // as sendfile on a descriptor that cannot be mapped
    return -1;
  }
  std::size_t done = 0;
  int error = 0;
  while (done < count) {
    BorrowedScratch scratch;
    if (!scratch) {
      error = ENOMEM;
      break;
    }
    std::size_t wanted = std::min(count - done, kScratchRecords * tls::kMaxPlaintext);
    ssize_t got = pread64(from, scratch->bytes, wanted, at);
    if (got <= 0) {
      error = got < 0 ? errno : 0;
      break;
    }
    iovec part{scratch->bytes, static_cast<std::size_t>(got)};
    ssize_t sent =
        send(slot, fd, {&part, 1}, done + static_cast<std::size_t>(got) < count ? MSG_MORE : 0);
    if (sent < 0) {
      error = errno;
      break;
    }
    at += sent;
    done += static_cast<std::size_t>(sent);
    if (sent < got) break;
  }
  if (offset != nullptr) {
    *offset = at;
  } else if (done > 0) {
    lseek64(from, at, SEEK_SET);
  }
  if (done == 0 && error != 0) {
    errno = error;
    return -1;
  }
  errno = entry_errno;
  return static_cast<ssize_t>(done);
}

}  // namespace inlay::shim
