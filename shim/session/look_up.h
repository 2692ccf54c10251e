// One look-up of the C library's. Its calls are cancellation points: no frame here has anything to
// destroy.
#pragma once

#include <type_traits>

#include "shim/session/cancel.h"
#include "shim/session/name_servers.h"

namespace inlay::shim {

static_assert(std::is_trivially_destructible_v<NameServers>);

// What `ask()` returns. After it `servers` are as they were, if the thread is cancelled too.
template <typename Ask>
auto look_up(NameServers &servers, Ask ask) {
  using Answer = decltype(ask());
  struct Call {
    NameServers *servers;
    Ask *ask;
    Answer answer;
  };
  Call call{&servers, &ask, {}};
  cancellable<Call>(
      [](Call *one) {
        one->answer = (*one->ask)();
        return 0L;
      },
      [](Call *one) { one->servers->end(); }, &call);
  servers.end();
  return call.answer;
}

}  // namespace inlay::shim
