#include "tls/fiber.h"

#include <doctest/doctest.h>

#include <stdexcept>
#include <vector>

using inlay::tls::Fiber;

namespace {

struct Walker {
  Fiber fiber;
  std::vector<int> steps;
};

void walk(void *argument) {
  auto &walker = *static_cast<Walker *>(argument);
  for (int i = 0; i < 3; ++i) {
    walker.steps.push_back(i);
    walker.fiber.suspend();
  }
}

TEST_CASE("a function is left in the middle and gone on with") {
  Walker walker;
  CHECK_FALSE(walker.fiber.run(walk, &walker));
  CHECK(walker.fiber.suspended());
  CHECK(walker.steps == std::vector{0});
  CHECK_FALSE(walker.fiber.run(walk, &walker));  // not twice at once
  CHECK_FALSE(walker.fiber.resume());
  CHECK_FALSE(walker.fiber.resume());
  CHECK(walker.fiber.resume());
  CHECK(walker.steps == std::vector{0, 1, 2});
  CHECK_FALSE(walker.fiber.suspended());
  CHECK_FALSE(walker.fiber.resume());
  CHECK_FALSE(walker.fiber.run(walk, &walker));  // again, on a stack used before
  CHECK(walker.steps.size() == 4);
}

TEST_CASE("many are suspended at once, each with a stack of its own") {
  std::vector<Walker> walkers(200);
  for (auto &walker : walkers) walker.fiber.run(walk, &walker);
  for (int i = 0; i < 3; ++i) {
    for (auto &walker : walkers) walker.fiber.resume();
  }
  for (auto &walker : walkers) CHECK(walker.steps == std::vector{0, 1, 2});
}

TEST_CASE("exceptions stay inside, before and after it was left") {
  struct Thrower {
    Fiber fiber;
    int caught = 0;
  } thrower;
  thrower.fiber.run(
      [](void *argument) {
        auto &self = *static_cast<Thrower *>(argument);
        for (int i = 0; i < 2; ++i) {
          try {
            throw std::runtime_error("inside");
          } catch (const std::runtime_error &) {
            ++self.caught;
          }
          self.fiber.suspend();
        }
      },
      &thrower);
  CHECK_THROWS_AS(throw std::logic_error("outside"), std::logic_error);
  thrower.fiber.resume();
  CHECK(thrower.caught == 2);
}

}  // namespace
