// Makes the certificates that tests need, good by default, with a knob to break each clause of the
// X.509-SVID rules. Everything is made in library_context(). A failure to make one throws.
#pragma once

#include <cstddef>
#include <ctime>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "identity/file_source.h"

namespace inlay::testing {

// The time all certificates are made for unless told otherwise: the machine's clock, read once.
std::time_t now();

enum class KeyKind { p256, p384, p521, p224, secp256k1, rsa2048, rsa1024, rsa_pss2048, ed25519 };

// Extension values are written as in openssl's x509v3_config; an empty string leaves the extension
// out. An unset knob means: what a good certificate of that kind has.
struct Knobs {
  KeyKind key = KeyKind::p256;
  std::optional<std::string> subject;  // the common name; "" gives an empty subject
  // URI SANs, instead of the SPIFFE ID asked for. Any bytes, embedded NULs included. An empty list
  // leaves the URI SAN out.
  std::optional<std::vector<std::string>> uris;
  std::vector<std::string> dns_names;             // further SANs of other kinds
  std::optional<bool> san_critical;               // default: critical when the subject is empty
  std::optional<std::string> basic_constraints;   // "critical,CA:TRUE,pathlen:0"
  std::optional<std::string> key_usage;           // "critical,digitalSignature"
  std::optional<std::string> extended_key_usage;  // "serverAuth,clientAuth"
  std::string name_constraints;                   // "critical,permitted;URI:example.org"
  bool key_identifiers = true;                    // subject and authority key identifiers
  bool unknown_critical_extension = false;
  std::size_t padding = 0;  // bytes in an extension nobody reads
  std::time_t not_before = now() - 60;
  std::time_t not_after = now() + 3600;
  std::string digest = "SHA256";
  bool corrupt_signature = false;
  int version = 3;
};

// A certificate, the key that belongs to it, and those between it and its root (not the root).
struct Identity {
  identity::X509Ptr certificate;
  identity::PkeyPtr key;
  std::vector<identity::X509Ptr> intermediates;  // nearest issuer first
};

// A self-signed root with the trust domain's own SPIFFE ID.
Identity make_authority(std::string_view trust_domain, const Knobs &knobs = {});
// A CA certificate issued by `issuer`.
Identity make_intermediate(const Identity &issuer, std::string_view trust_domain,
                           const Knobs &knobs = {});
// A leaf issued by `issuer`, both EKUs, one hour.
Identity issue(const Identity &issuer, std::string_view spiffe_id, const Knobs &knobs = {});
// A leaf that signs itself.
Identity make_self_signed(std::string_view spiffe_id, const Knobs &knobs = {});

identity::PkeyPtr make_key(KeyKind kind);
identity::X509Ptr share(const X509 *certificate);  // another reference to the same certificate

std::string to_pem(const X509 *certificate);
std::string to_pem(const EVP_PKEY *key);  // PKCS#8
std::string chain_pem(const Identity &identity);
std::string to_base64_der(const X509 *certificate);

// Leaf first, then `identity.intermediates`: what the peer would send.
identity::X509StackPtr stack_of(const Identity &identity);
identity::X509StackPtr stack_of(std::initializer_list<const X509 *> certificates);

identity::Bundle bundle_of(std::initializer_list<const X509 *> authorities);

struct TrustedAuthority {
  std::string trust_domain;
  const X509 *certificate;
};
identity::BundleSet bundles_of(std::initializer_list<TrustedAuthority> authorities);

// What a handshake takes. Nothing is checked, so a broken identity or another's key can be given;
// only the SPIFFE ID must be a valid one.
std::shared_ptr<const identity::Material> make_material(const Identity &identity,
                                                        std::string_view spiffe_id,
                                                        identity::BundleSet bundles);

}  // namespace inlay::testing
