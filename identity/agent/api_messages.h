// The Workload API's answers, made from what the agent holds. The bytes are what gRPC sends.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "identity/agent/identities.h"
#include "identity/jwt_svid.h"

namespace inlay::identity::agent {

// A serialized message, cleansed when the last holder lets go: it may contain a private key. Equal
// content gives equal bytes.
struct SecretBytes {
  std::unique_ptr<char[]> data;
  std::size_t size = 0;

  SecretBytes() = default;
  explicit SecretBytes(std::size_t bytes);
  SecretBytes(SecretBytes &&other) noexcept;
  SecretBytes &operator=(SecretBytes &&) = delete;
  ~SecretBytes();
  std::string_view view() const noexcept { return {data.get(), size}; }
};

// The error is one line for the caller: what it waits for. It is never his doing.
using ApiMessage = tl::expected<SecretBytes, std::string>;

// X509SVIDResponse, X509BundlesResponse and JWTBundlesResponse for a process with that ID.
ApiMessage x509_svid_message(const View &view, const SpiffeId &id, const std::string &hint);
ApiMessage x509_bundles_message(const View &view, const SpiffeId &id);
ApiMessage jwt_bundles_message(const View &view, const SpiffeId &id);

}  // namespace inlay::identity::agent
