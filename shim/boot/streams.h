// The C library's streams. Their reads, writes and closes are calls inside the C library, which no
// hook sees. But every stream makes them through a table of functions (libio's), and the C library
// keeps those tables where nothing is written once it has been relocated: the entries for
// _IO_file_read() and its kind are made to name the hooks of the same names. A stream then is what
// its number is, whoever made it, whenever, in bytes or wide characters. The tables stay read-only
// but for that moment, and stay the C library's own: it ends a process that uses any other.
#pragma once

namespace inlay::shim::boot {

// False where the C library has no such tables, or lets nobody change them.
bool point_streams_at_hooks() noexcept;

// At exit, before what connections owe is sent: what streams over them hold. The C library's own
// flush comes too late.
void flush_streams() noexcept;

// fork() takes the lock of the list of streams, behind inlay's handlers. Whoever waits on a
// connection with it, in fflush(NULL), waits for the helper: inlay's locks come after it.
void streams_before_fork() noexcept;
void streams_after_fork_parent() noexcept;
void streams_after_fork_child() noexcept;

}  // namespace inlay::shim::boot
