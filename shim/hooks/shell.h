// The shell that system(), popen() and wordexp() start inside the C library, where no hook of exec
// sees it. While there is one of these it gets no managed descriptor that the preload could not
// protect.
#pragma once

#include <memory>
#include <new>

#include "shim/boot/environment.h"
#include "shim/boot/level.h"
#include "shim/session/cancel.h"
#include "shim/session/withhold.h"

namespace inlay::shim {

class Shell {
 public:
  Shell() noexcept : target_(boot::judge_target(kPath)) {
    if (!is_reachable()) withhold_.mark();
  }
  // Logs one that is not reachable. False: it must not start (INLAY_STRICT=1).
  bool may_start() const noexcept { return boot::may_start(target_, kPath); }
  bool is_reachable() const noexcept { return target_ == boot::Target::reachable; }

  // Calls `start` while there is one; false: it must not start, and did not. For a start that may
  // be cancelled, which must have no destructor above it.
  template <typename Start>
  static bool call(Start start) {
    struct Held {
      Shell *shell;
      Start *start;
      static void end(Held *one) { std::destroy_at(one->shell); }
    };
    alignas(Shell) char room[sizeof(Shell)];
    Held held{new (room) Shell, &start};
    const bool may_start = held.shell->may_start();
    if (may_start) {
      cancellable<Held>(
          [](Held *one) {
            (*one->start)();
            return 0L;
          },
          Held::end, &held);
    }
    Held::end(&held);
    return may_start;
  }

 private:
  static constexpr char kPath[] = "/bin/sh";  // _PATH_BSHELL
  boot::Target target_;
  Withhold withhold_;
};

}  // namespace inlay::shim
