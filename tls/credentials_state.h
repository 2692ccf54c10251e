// Private to tls/.
#pragma once

#include <memory>

#include "tls/handshake.h"
#include "tls/verified_chains.h"

namespace inlay::tls {

struct Credentials::State {
  std::shared_ptr<const identity::Material> material;
  identity::SslContextPtr context;
  VerifiedChains verified;  // against material->bundles
};

}  // namespace inlay::tls
