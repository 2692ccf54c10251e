// What the C library's streams call to read, write and close: their tables name these
// (boot/streams.h). And the functions that put something else at a stream's number without such a
// call.

#include "shim/boot/environment.h"
#include "shim/hooks/hook.h"
#include "shim/hooks/shell.h"
#include "shim/session/hand_over.h"

using namespace inlay::shim;

namespace {

constexpr int kIsFile = 0x2000;   // _IO_IS_FILEBUF
constexpr int kErrorSeen = 0x20;  // _IO_ERR_SEEN

// -1 for a stream that is no file's: in others, as those of open_memstream(), nothing ever writes
// the field.
int number_of(const FILE *stream) {
  return stream != nullptr && (stream->_flags & kIsFile) != 0 ? stream->_fileno : -1;
}

// What is at `fd` goes: another call of the C library's closes the number.
void before_close(int fd) {
  if (Slot *slot = managed_here(fd)) before_replace(*slot, fd);
}
void after_close(int fd) {
  if (fd >= 0) after_close_range(static_cast<unsigned>(fd), static_cast<unsigned>(fd));
}

template <typename Reopen>
FILE *reopen_with(Reopen reopen, const char *path, const char *mode, FILE *stream) {
  int fd = boot::active() && !in_foreign_process() ? number_of(stream) : -1;
  if (fd < 0) return reopen(path, mode, stream);
  if (managed(fd) != nullptr) fflush(stream);
  before_close(fd);
  FILE *result = reopen(path, mode, stream);
  forget_file(fd);
  return result;
}

// The child may use a connection when its parent has long closed it: it holds it from the start, as
// one of posix_spawn() does.
template <typename Open>
FILE *open_pipe(Open open, const char *command, const char *mode) {
  FILE *stream = nullptr;
  HandOver hand_over;
  Shell shell;
  if (!shell.may_start()) {
    errno = EACCES;
    return nullptr;
  }
  if (boot::active() && shell.is_reachable()) hand_over.for_shell();
  boot::with_own_environment(hand_over.variable(), [&] { stream = open(command, mode); });
  if (stream != nullptr) hand_over.spawned_last();
  return stream;
}

}  // namespace

extern "C" {

FILE *popen(const char *command, const char *mode) {
  return open_pipe(bound().popen, command, mode);
}
FILE *_IO_popen(const char *command, const char *mode) {
  return open_pipe(bound()._IO_popen, command, mode);
}

FILE *freopen(const char *path, const char *mode, FILE *stream) {
  return reopen_with(bound().freopen, path, mode, stream);
}
FILE *freopen64(const char *path, const char *mode, FILE *stream) {
  return reopen_with(bound().freopen64, path, mode, stream);
}

ssize_t _IO_file_read(FILE *stream, void *data, ssize_t size) {
  if (managed(stream->_fileno) == nullptr) return bound()._IO_file_read(stream, data, size);
  return read(stream->_fileno, data, static_cast<size_t>(size));
}

// The C library's own loop: what could not be written is an error.
ssize_t _IO_file_write(FILE *stream, const void *data, ssize_t size) {
  if (managed(stream->_fileno) == nullptr) return bound()._IO_file_write(stream, data, size);
  ssize_t done = 0;
  while (done < size) {
    ssize_t written = write(stream->_fileno, static_cast<const char *>(data) + done,
                            static_cast<size_t>(size - done));
    if (written < 0) {
      stream->_flags |= kErrorSeen;
      break;
    }
    done += written;
  }
  if (stream->_offset >= 0) stream->_offset += done;
  return done;
}

int _IO_file_close(FILE *stream) { return __close_nocancel(stream->_fileno); }

// Waits for the command too.
int _IO_proc_close(FILE *stream) {
  int fd = boot::active() && !in_foreign_process() ? number_of(stream) : -1;
  before_close(fd);
  int status = bound()._IO_proc_close(stream);
  after_close(fd);
  return status;
}

}  // extern "C"
