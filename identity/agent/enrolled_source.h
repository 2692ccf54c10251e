// SVIDs, trust bundles, CRLs and entries from inlay-ca, for a machine that inlay enroll enrolled.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "identity/agent/source.h"

namespace inlay::identity::agent {

struct EnrolledSettings {
  std::string folder;  // node_folder.h
  std::string trust_domain;
  std::vector<uid_t> owners{};
};

// Starts two threads. One keeps open the stream on which the authority says what this machine has;
// one renews the machine's own SVID at half its life, and asks to rejoin when it has ended.
//
// While the authority is away, what it said last stays in force, also over a restart; SVIDs go on
// until they end.
tl::expected<std::unique_ptr<Source>, SourceFailure> open_enrolled(EnrolledSettings settings);

}  // namespace inlay::identity::agent
