// Private to tls/: what OpenSSL's callbacks learn during one handshake. The SSL object's app data
// points to it.
#pragma once

#include <openssl/crypto.h>
#include <openssl/ssl.h>

#include <array>
#include <cstddef>
#include <ctime>
#include <optional>
#include <span>
#include <string>

#include "tls/handshake.h"
#include "tls/verified_chains.h"

namespace inlay::tls {

struct Secret {
  std::array<std::uint8_t, kMaxSecretLength> bytes{};
  std::size_t length = 0;

  Secret() = default;
  Secret(const Secret &) = delete;
  Secret &operator=(const Secret &) = delete;
  ~Secret() { OPENSSL_cleanse(bytes.data(), bytes.size()); }
  std::span<const std::uint8_t> view() const noexcept { return std::span(bytes).first(length); }
};

struct HandshakeContext {
  const identity::Material *material = nullptr;
  VerifiedChains *verified = nullptr;
  Role role = Role::client;
  Handshake::Judge judge;

  Secret client_handshake;  // {client,server}_handshake_traffic_secret and so on (RFC 8446 §7.1)
  Secret client_traffic;
  Secret server_traffic;
  std::optional<identity::SpiffeId> peer;  // its chain is verified, its key not yet
  std::time_t peer_not_after = 0;
  identity::PathRecord peer_path;
  std::optional<identity::VerifyFailure> verify;
  bool certificate_requested = false;  // client: the server asked for our certificate
  bool not_authorised = false;
  bool no_common_alpn = false;
  bool out_of_memory = false;
  std::optional<std::string> no_signature;  // why the holder of a remote key did not sign
};

// Registers every callback inlay uses; each finds its HandshakeContext through the SSL object.
void install_callbacks(SSL_CTX *context) noexcept;

// False when the judge says no. The peer must be known and have proved its key.
bool ask_judge(HandshakeContext &context);

// What a failed SSL_do_handshake means. `result` is SSL_get_error's. Empties the error queue.
HandshakeFailure classify(const HandshakeContext &context, const SSL *ssl, int result);

}  // namespace inlay::tls
