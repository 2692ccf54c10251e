// EST (RFC 7030, RFC 8951) for machines and devices without an agent of ours: what issuing.h gives,
// in certificates and CSRs as many tools have them.
//
//   GET  …/cacerts         the roots, and what lies between them and SVIDs; anybody
//   GET  …/csrattrs        what key to make: on P-256; anybody
//   POST …/simpleenroll    by HTTP Basic, node and token: the node's own SVID. By that as the
//   client
//                          certificate: an SVID of a workload that the node has an entry for
//   POST …/simplereenroll  by the node's own SVID: its next one
//
// … is /.well-known/est or /.well-known/est/LABEL, whatever the label.
#pragma once

#include "identity/ca/issuing.h"
#include "identity/rpc/http_server.h"

namespace inlay::identity::ca {

// Any thread.
rpc::HttpAnswer answer_est(Issuing &issuing, const rpc::HttpRequest &request);

}  // namespace inlay::identity::ca
