// POSIX asynchronous I/O: the C library carries it out on its own threads with calls no hook sees.

#include "shim/hooks/hook.h"

using namespace inlay::shim;

namespace {

bool refused(int fd) {
  Slot *slot = managed(fd);
  if (slot == nullptr) return false;
  note_unsupported(*slot, fd, "aio");
  return true;
}

template <typename Request>
bool any_refused(Request *const requests[], int count) {
  for (int i = 0; i < count; ++i) {
    if (requests[i] == nullptr || requests[i]->aio_lio_opcode == LIO_NOP) continue;
    if (refused(requests[i]->aio_fildes)) return true;
  }
  return false;
}

}  // namespace

extern "C" {

int aio_read(struct aiocb *request) noexcept {
  if (refused(request->aio_fildes)) return fail(ENOSYS);
  return next.aio_read(request);
}

int aio_read64(struct aiocb64 *request) noexcept {
  if (refused(request->aio_fildes)) return fail(ENOSYS);
  return next.aio_read64(request);
}

int aio_write(struct aiocb *request) noexcept {
  if (refused(request->aio_fildes)) return fail(ENOSYS);
  return next.aio_write(request);
}

int aio_write64(struct aiocb64 *request) noexcept {
  if (refused(request->aio_fildes)) return fail(ENOSYS);
  return next.aio_write64(request);
}

int lio_listio(int mode, struct aiocb *const requests[], int count,
               struct sigevent *event) noexcept {
  if (any_refused(requests, count)) return fail(ENOSYS);
  return next.lio_listio(mode, requests, count, event);
}

int lio_listio64(int mode, struct aiocb64 *const requests[], int count,
                 struct sigevent *event) noexcept {
  if (any_refused(requests, count)) return fail(ENOSYS);
  return next.lio_listio64(mode, requests, count, event);
}

}  // extern "C"
