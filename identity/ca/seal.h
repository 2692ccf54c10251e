// Keys at rest: sealed by AES-256-GCM under one key, which lies in a file beside the database,
// never in it. Who has the database alone, a backup of it say, has no authority.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "identity/openssl.h"

namespace inlay::identity::ca {

class Seal {
 public:
  // The file's 32 bytes; the file must be nobody else's to read. Makes it, 0600, when it is not
  // there and `make` is true. Servers that share a database share a copy of it.
  static tl::expected<Seal, std::string> open(const std::string &file, bool make);

  Seal(Seal &&) noexcept;
  Seal &operator=(Seal &&) = delete;
  ~Seal();  // cleanses it

  // `what`: which row's key it is. Sealed for one it opens for no other.
  tl::expected<std::string, std::string> close(const EVP_PKEY *key, std::string_view what) const;
  tl::expected<PkeyPtr, std::string> unseal(std::string_view sealed, std::string_view what) const;

 private:
  Seal(std::string file, std::string_view key);
  std::string file_;  // for messages
  std::array<std::uint8_t, 32> key_{};
};

}  // namespace inlay::identity::ca
