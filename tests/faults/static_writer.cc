// A program the preload cannot reach: static_writer FD TEXT writes TEXT to the descriptor. Exit
// status 0 when all of it was taken.
#include <unistd.h>

#include <cstdlib>
#include <cstring>

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  auto length = static_cast<ssize_t>(std::strlen(argv[2]));
  return write(std::atoi(argv[1]), argv[2], static_cast<std::size_t>(length)) == length ? 0 : 1;
}
