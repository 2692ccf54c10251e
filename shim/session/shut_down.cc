// shutdown(): the end of one direction, or of both.
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <cerrno>

#include "shim/arena/kernel.h"
#include "shim/hooks/next.h"
#include "shim/session/internal.h"
#include "shim/session/session.h"

namespace inlay::shim {

static bool is_connected(int fd) noexcept {
  tcp_info info{};
  socklen_t length = sizeof(info);
  return kernel::get_option(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
         info.tcpi_state != TCP_SYN_SENT && info.tcpi_state != TCP_SYN_RECV &&
         info.tcpi_state != TCP_CLOSE;
}

int shut_down(Slot &slot, int fd, int how) noexcept {
  if (how != SHUT_RD && how != SHUT_WR && how != SHUT_RDWR) return next.shutdown(fd, how);
  const int saved = errno;
  State state = slot.state.load(std::memory_order_acquire);
  // Failed, or another program speaks on it, as inetd's child does on its parent's copy: the end of
  // the stream is the kernel's.
  if (state == State::failed || (state == State::waiting && !is_fresh(fd))) {
    return next.shutdown(fd, how);
  }
  // The program may know from poll that TCP is up before the helper does, and of a reset before the
  // session does.
  if (!is_connected(fd)) return next.shutdown(fd, how);
  if (how != SHUT_WR) {
    {
      Locked guard(slot.receive_lock);
      if (!guard.reentered()) slot.receiving.shut = true;
    }
    // Before that the kernel's end of the stream would be the handshake's: finish() sees to it.
    if (state == State::established) kernel::shut_down(fd, SHUT_RD);
  }
  if (how != SHUT_RD) {
    take_ownership(slot, fd);
    Push pushed = Push::pending;
    int error = 0;
    bool again = false;
    bool gone = false;
    {
      Locked guard(slot.send_lock);
      gone = guard.owner_gone();
      again = slot.sending.fin_sent;
      slot.sending.shut_requested = true;  // re-entered: the frame below, or the helper, acts on it
      slot.output_pending.store(true, std::memory_order_release);
      // In a signal's handler the frame below may be in the middle of a record.
      if (!gone && !guard.reentered() &&
          slot.state.load(std::memory_order_acquire) == State::established) {
        pushed = push_output(slot, fd, &error);
      }
    }
    if (gone) {
      poison(slot, fd);
      errno = saved;
      return 0;
    }
    if (pushed == Push::pending) notify_helper(slot);
    // A connection that is gone may still have something to read.
    if (pushed == Push::failed && reason_of_send(error) != policy::Reason::reset_by_peer) {
      fail_closed(slot, fd, reason_of_send(error));
    }
    // Again after the end was sent: the kernel knows whether there still is a connection.
    if (again) return next.shutdown(fd, how);
  }
  errno = saved;
  return 0;
}

}  // namespace inlay::shim
