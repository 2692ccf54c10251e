// The C library's own streams at numbers that become a session's. Their system calls are seen by no
// hook, and the stream objects outlive what inlay can replace: a program keeps a copy of `stdout`
// (std::cout does), or closes the number under a stream and gets a connection there. Such a stream
// loses its number while the connection has it: what it writes fails with EBADF. When the number is
// something else again, the stream has it back.
//
// The number is kept in the stream itself (_fileno), and streams are found in the C library's list
// under its lock, so nothing here can name a stream that is gone. That lock is held by fflush(NULL)
// while it waits for a full pipe: it is taken only for numbers at which the program opened a
// stream.
#pragma once

#include <cstdint>
#include <cstdio>

namespace inlay::shim::boot {

// Well below the C library's own negative numbers: -1 closed, -2 a cookie stream.
inline constexpr int kFirstWithdrawn = -16;

// A stream was opened by the C library, or is about to be closed. Null is ignored.
void note_plain_stream(FILE *stream) noexcept;
void forget_plain_stream(FILE *stream) noexcept;

// `fd` becomes a session's, or is one's no more.
void withdraw_streams(int fd) noexcept;
void give_back_streams(int fd) noexcept;
// The same when `fd` was closed, with `closing` as its word until now: it may be another session's
// already, and then the streams stay without it.
void give_back_streams_after(int fd, std::uint64_t closing) noexcept;

// The number in the stream; -1 when it has none. Only streams of files do: in others, as those of
// open_memstream(), nothing ever writes the field.
inline int stream_number(const FILE *stream) noexcept {
  constexpr int kIsFile = 0x2000;  // _IO_IS_FILEBUF
  return (stream->_flags & kIsFile) != 0 ? __atomic_load_n(&stream->_fileno, __ATOMIC_ACQUIRE) : -1;
}

// The number that was withdrawn from the stream; -1 when none was.
inline int withdrawn_number(const FILE *stream) noexcept {
  int number = stream_number(stream);
  return number <= kFirstWithdrawn ? kFirstWithdrawn - number : -1;
}
// A stream without its number was written to, or read from: the connection at `fd` lacks something
// the program said.
bool a_stream_failed(int fd) noexcept;
// At exit, when the C library flushes every stream: what one without its number holds is lost.
void fail_unflushed_streams() noexcept;

// fork() takes the list's lock, behind inlay's handlers. Whoever waits on a connection with it, in
// fflush(NULL), waits for the helper: inlay's locks come after it.
void streams_before_fork() noexcept;
void streams_after_fork_parent() noexcept;
void streams_after_fork_child() noexcept;

}  // namespace inlay::shim::boot
