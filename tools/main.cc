#include <cstdio>

int main() {
  std::puts("inlay " INLAY_VERSION);
  return 0;
}
