// SVIDs and the trust bundle from an EST server (RFC 7030), of whatever make.
#pragma once

#include <memory>
#include <tl/expected.hpp>

#include "identity/agent/est_link.h"
#include "identity/agent/source.h"

namespace inlay::identity::agent {

// Starts a thread that gets, keeps and renews the machine's own certificate, and asks for the
// authorities every five minutes. It waits for nothing.
//
//   FOLDER/client.pem   the machine's key and certificate; the key alone while it is asked for: the
//                       same password with the same key may be good once more when an answer was
//                       lost
//   FOLDER/cacerts.der  the authorities, for a start without the server
tl::expected<std::unique_ptr<Source>, SourceFailure> open_est(EstSettings settings);

}  // namespace inlay::identity::agent
