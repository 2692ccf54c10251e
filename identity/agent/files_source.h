// SVIDs from certificate files that others write and renew: cert-manager, Vault agent,
// spiffe-helper. One or several; the SPIFFE ID of each is its leaf's.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "identity/agent/source.h"

namespace inlay::identity::agent {

struct SvidFiles {
  std::string svid;  // absolute paths
  std::string key;
  std::string bundle;  // of trust_domain
};

struct FilesSettings {
  std::string trust_domain;
  std::vector<SvidFiles> svids;                // at least one
  std::map<std::string, std::string> bundles;  // of further trust domains -> absolute path
  std::vector<std::string> crls;               // absolute paths, PEM or DER
};

// Never fails for what is in the files: a set may be written after the agent has started.
std::unique_ptr<Source> open_files(FilesSettings settings);

}  // namespace inlay::identity::agent
