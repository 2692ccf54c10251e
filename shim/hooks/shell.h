// The shell that system(), popen() and wordexp() start inside the C library, where no hook of exec
// sees it. While there is one of these it gets no managed descriptor that the preload could not
// protect.
#pragma once

#include "shim/boot/environment.h"
#include "shim/boot/level.h"
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

 private:
  static constexpr char kPath[] = "/bin/sh";  // _PATH_BSHELL
  boot::Target target_;
  Withhold withhold_;
};

}  // namespace inlay::shim
