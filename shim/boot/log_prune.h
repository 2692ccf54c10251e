// Logs that nobody removed: a process that recorded something leaves its file, and so does one that
// was killed. Each costs memory under /run for as long as it is there.
#pragma once

namespace inlay::shim::boot {

// Removes from the folder the files of this user's dead processes whose last event is more than a
// day old, and of younger ones what is over 512. Direct system calls only; looks at no more than
// some thousand files. One process in 64 calls it: a folder may hold that many more for a while.
void prune_logs(const char *folder) noexcept;

}  // namespace inlay::shim::boot
