// Files that the agent keeps for itself between two runs: 0600, in a folder that is 0700, and
// replaced whole.
#pragma once

#include <sys/types.h>

#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "identity/file.h"
#include "identity/openssl.h"

namespace inlay::identity::agent {

// Refuses one that others could change (policy/trusted_file.h). The errors are one line, as all
// here.
tl::expected<FileContent, std::string> read_kept_file(const std::string &path,
                                                      std::span<const uid_t> owners);
// So that after a crash there is the old file or the new one, whole.
tl::expected<void, std::string> replace_kept_file(const std::string &folder, const char *name,
                                                  std::string_view bytes);
// With what is above it; one that is there will do.
tl::expected<void, std::string> make_kept_folder(const std::string &folder);

// PKCS#8, then the certificates; the caller cleanses it. "" when OpenSSL cannot.
std::string key_and_chain_pem(const EVP_PKEY *key, std::span<const X509Ptr> chain);

}  // namespace inlay::identity::agent
