#include "identity/rpc/grpc_quiet.h"

#include <grpc/grpc.h>
#include <grpc/support/log.h>

#include <mutex>

namespace inlay::identity::rpc {

void quiet_grpc() {
  static std::once_flag once;
  std::call_once(once, [] {
    // What matters of it arrives as a call's status, and is logged as that.
    gpr_set_log_function([](gpr_log_func_args *) {});
    // Never given back: gRPC 1.51 ends itself with the last of its objects, and may wait for ever
    // for a thread of its own that still polls a connection which has just ended.
    grpc_init();
  });
}

}  // namespace inlay::identity::rpc
