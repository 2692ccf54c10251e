// inlay-ca. What it does is in command.h.
#include <string>
#include <vector>

#include "identity/ca/command.h"

int main(int argc, char **argv) {
  return inlay::identity::ca::run_command({argv + (argc > 0 ? 1 : 0), argv + argc});
}
