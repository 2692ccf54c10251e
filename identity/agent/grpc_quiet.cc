#include "identity/agent/grpc_quiet.h"

#include <grpc/support/log.h>

namespace inlay::identity::agent {

void quiet_grpc() {
  // What matters of it arrives as a call's status, and is logged as that.
  gpr_set_log_function([](gpr_log_func_args *) {});
}

}  // namespace inlay::identity::agent
