// X.509-SVID verification. The input is a certificate's DER, or edits to a good one's; it is then
// signed anew by the trusted authority, so that the checks behind the signature are reached. What
// passes must be what SPIFFE says, found out by other means than the code under test.
#include <openssl/x509v3.h>

#include <vector>

#include "certificates.h"
#include "identity/verify.h"
#include "input.h"

namespace {

using namespace inlay;
using fuzz::Input;
using fuzz::must;

constexpr const char kDomain[] = "example.org";

struct World {
  testing::Identity root = testing::make_authority(kDomain);
  testing::Identity leaf = testing::issue(root, "spiffe://example.org/app");
  identity::BundleSet bundles = testing::bundles_of({{kDomain, root.certificate.get()}});
  std::vector<std::uint8_t> der;

  World() {
    unsigned char *bytes = nullptr;
    const int length = i2d_X509(leaf.certificate.get(), &bytes);
    must(length > 0);
    der.assign(bytes, bytes + length);
    OPENSSL_free(bytes);
  }
};

identity::X509Ptr decode(const std::vector<std::uint8_t> &der) {
  X509 *certificate = X509_new_ex(identity::library_context(), nullptr);
  const unsigned char *at = der.data();
  if (d2i_X509(&certificate, &at, static_cast<long>(der.size())) == nullptr) return nullptr;
  return identity::X509Ptr(certificate);
}

void sign_again(X509 *certificate, EVP_PKEY *key) {
  // Any change of a field makes OpenSSL encode it anew, as X509_sign() wants it.
  X509_set_version(certificate, X509_get_version(certificate));
  X509_sign(certificate, key, EVP_sha256());
}

void check_passed(X509 *leaf, const identity::SpiffeId &id) {
  must(id.trust_domain() == kDomain);
  must(X509_check_ca(leaf) == 0 || (X509_get_extension_flags(leaf) & EXFLAG_CA) == 0);
  must((X509_get_key_usage(leaf) & KU_DIGITAL_SIGNATURE) != 0);
  must((X509_get_key_usage(leaf) & (KU_KEY_CERT_SIGN | KU_CRL_SIGN)) == 0 ||
       X509_get_key_usage(leaf) == UINT32_MAX);
  auto *names = static_cast<GENERAL_NAMES *>(
      X509_get_ext_d2i(leaf, NID_subject_alt_name, nullptr, nullptr));
  must(names != nullptr);
  int uris = 0;
  for (int i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
    if (name->type != GEN_URI) continue;
    ++uris;
    const auto *text = ASN1_STRING_get0_data(name->d.uniformResourceIdentifier);
    const int length = ASN1_STRING_length(name->d.uniformResourceIdentifier);
    must(std::string_view(reinterpret_cast<const char *>(text), static_cast<std::size_t>(length)) ==
         id.uri());
  }
  must(uris == 1);
  GENERAL_NAMES_free(names);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  static World &world = *new World;
  Input input(data, size);
  const std::uint8_t how = input.byte();
  std::vector<std::uint8_t> der;
  if (how % 4 == 0) {
    auto bytes = input.bytes(size);
    der.assign(bytes.begin(), bytes.end());
  } else {
    der = world.der;
    while (!input.empty()) {
      const std::size_t at = input.number() % der.size();
      der[at] = input.byte();
    }
  }
  identity::X509Ptr leaf = decode(der);
  if (leaf == nullptr) return 0;
  if (how % 4 != 1) sign_again(leaf.get(), world.root.key.get());
  auto chain = testing::stack_of({leaf.get()});
  auto id = identity::verify_x509_svid(chain.get(), world.bundles, testing::now());
  if (id) {
    check_passed(leaf.get(), *id);
  } else {
    must(!identity::sentence(id.error().error).empty());
    must(id.error().detail.find('\n') == std::string::npos);
  }
  return 0;
}
