// gRPC as a guest: what it would write to stderr by itself goes nowhere, and once started it stays.
#pragma once

namespace inlay::identity::rpc {

// Before anything else of gRPC; more than once does no harm. GRPC_VERBOSITY and GRPC_TRACE have no
// effect afterwards.
void quiet_grpc();

}  // namespace inlay::identity::rpc
