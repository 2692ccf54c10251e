#include "identity/memory.h"

#include <doctest/doctest.h>

#include <thread>

namespace {

using namespace inlay;

TEST_CASE("a watch sees what its own thread was refused since it was made") {
  identity::note_refused_allocation();
  const identity::MemoryWatch watch;
  CHECK_FALSE(watch.ran_out());
  std::thread([] { identity::note_refused_allocation(); }).join();
  CHECK_FALSE(watch.ran_out());
  identity::note_refused_allocation();
  CHECK(watch.ran_out());
  CHECK_FALSE(identity::MemoryWatch().ran_out());
}

}  // namespace
