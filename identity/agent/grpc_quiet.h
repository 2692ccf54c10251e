// gRPC as a guest: what it would write to stderr by itself goes nowhere.
#pragma once

namespace inlay::identity::agent {

// Before anything else of gRPC; more than once does no harm. GRPC_VERBOSITY and GRPC_TRACE have no
// effect afterwards.
void quiet_grpc();

}  // namespace inlay::identity::agent
