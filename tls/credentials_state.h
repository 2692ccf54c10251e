// Private to tls/.
#pragma once

#include <memory>

#include "tls/handshake.h"

namespace inlay::tls {

struct Credentials::State {
  std::shared_ptr<const identity::Material> material;
  identity::SslContextPtr context;
};

}  // namespace inlay::tls
