#include "shim/session/half_open.h"

#include <doctest/doctest.h>

#include <initializer_list>

using inlay::shim::HalfOpen;
using inlay::shim::HalfOpenEntry;

TEST_CASE("the oldest unfinished handshake is the one that was counted first, whoever left between") {
  HalfOpen list;
  HalfOpenEntry entries[5];
  for (int i : {3, 1, 4, 0, 2}) list.add(entries[i]);
  list.add(entries[3]);  // counted once
  CHECK(list.size() == 5);
  list.remove(entries[1]);
  list.remove(entries[1]);
  list.remove(entries[2]);
  CHECK(list.size() == 3);
  for (int i : {3, 4, 0}) {
    REQUIRE(list.oldest() == &entries[i]);
    list.remove(entries[i]);
    CHECK_FALSE(entries[i].counted);
  }
  CHECK(list.oldest() == nullptr);
  CHECK(list.size() == 0);
  list.add(entries[1]);
  list.add(entries[0]);
  CHECK(list.oldest() == &entries[1]);
}

TEST_CASE("a child of fork has no unfinished handshakes") {
  HalfOpen list;
  HalfOpenEntry entries[2];
  list.add(entries[0]);
  list.forget();
  CHECK(list.size() == 0);
  CHECK(list.oldest() == nullptr);
  list.add(entries[1]);
  CHECK(list.oldest() == &entries[1]);
  CHECK(entries[1].older == nullptr);
}
