// bypass WAY PORT CANARY [LIBRARY]: goes one way past the hooks, from this program's own code or
// from that of a library loaded while it runs.
#include <dlfcn.h>

#include <csignal>
#include <cstdlib>
#include <cstring>

#include "tests/faults/bypass_ways.h"

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  std::signal(SIGPIPE, SIG_IGN);
  auto *go = go_past;
#ifndef INLAY_STATIC
  if (argc > 4) {
    bool deep = std::strcmp(argv[1], "deep binding") == 0;
    void *library = dlopen(argv[4], RTLD_NOW | RTLD_LOCAL | (deep ? RTLD_DEEPBIND : 0));
    if (library == nullptr) return 3;
    go = reinterpret_cast<decltype(go)>(dlsym(library, "go_past"));
    if (go == nullptr || go == go_past) return 3;
  }
#endif
  return go(argv[1], std::atoi(argv[2]), argv[3]);
}
