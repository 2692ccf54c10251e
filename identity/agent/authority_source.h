// SVIDs from a development authority in files, the folder of `inlay ca init`: ca.pem, ca-key.pem,
// bundle.pem and jwt-key.pem; crl.pem where there is one. For one machine.
#pragma once

#include <memory>
#include <string>

#include "identity/agent/clock.h"
#include "identity/agent/source.h"

namespace inlay::identity::agent {

struct AuthoritySettings {
  std::string folder;           // absolute
  std::time_t lifetime = 3600;  // of X.509-SVIDs, seconds; never beyond the root's end
  std::vector<uid_t> owners;    // further ones who may own the folder (--config-owner)
};

// Fails when the folder holds no usable authority now. Afterwards an unreadable or half-written set
// leaves the last good one in use, and trust() fails with the reason.
tl::expected<std::unique_ptr<Source>, SourceFailure> open_authority(AuthoritySettings settings,
                                                                    Clock clock = system_clock());

}  // namespace inlay::identity::agent
