// A certificate chain and its key that somebody else has put into files: an upstream's
// intermediate, a certificate of the web. Each error is one line.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/openssl.h"

namespace inlay::identity::ca {

// In a folder that nobody else may change.
tl::expected<std::string, std::string> read_trusted(const std::string &file);

struct CredentialFiles {
  std::vector<X509Ptr> chain;  // one at least
  PkeyPtr key;                 // whether it is that of the first is not looked at
};
// `name`: of the key, in an error about who may read it.
tl::expected<CredentialFiles, std::string> read_credentials(const std::string &certificate,
                                                            const std::string &key,
                                                            std::string_view name);

}  // namespace inlay::identity::ca
