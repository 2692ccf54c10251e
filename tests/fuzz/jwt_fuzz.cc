// JWT-SVIDs and the key sets they are validated by. A token is as it comes, or the input's header
// and claims with a good signature: nobody but the holder of the key gets one accepted.
#include <openssl/ecdsa.h>
#include <openssl/evp.h>

#include <string>
#include <vector>

#include "certificates.h"
#include "identity/base64.h"
#include "identity/jwk.h"
#include "identity/jwt_svid.h"
#include "input.h"

namespace {

using namespace inlay::identity;
using inlay::fuzz::Input;
using inlay::fuzz::must;

constexpr std::time_t kNow = 1'800'000'000;
constexpr char kAudience[] = "db";

EVP_PKEY *key() {
  static const PkeyPtr made = inlay::testing::make_key(inlay::testing::KeyKind::p256);
  return made.get();
}

const JwtAuthorities *authorities_of(std::string_view trust_domain) {
  static const JwtAuthorities known{{"k", public_key_der(key())}};
  return trust_domain == "example.org" ? &known : nullptr;
}

std::string encoded(std::string_view bytes) {
  return to_base64url({reinterpret_cast<const unsigned char *>(bytes.data()), bytes.size()});
}

// ES256 (RFC 7518 §3.4): both numbers in 32 bytes each.
std::string signature_of(const std::string &text) {
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  unsigned char der[128];
  std::size_t length = sizeof der;
  must(EVP_DigestSignInit_ex(context, nullptr, "SHA256", library_context(), nullptr, key(),
                             nullptr) == 1 &&
       EVP_DigestSign(context, der, &length, reinterpret_cast<const unsigned char *>(text.data()),
                      text.size()) == 1);
  EVP_MD_CTX_free(context);
  const unsigned char *at = der;
  ECDSA_SIG *parts = d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(length));
  unsigned char raw[64];
  BN_bn2binpad(ECDSA_SIG_get0_r(parts), raw, 32);
  BN_bn2binpad(ECDSA_SIG_get0_s(parts), raw + 32, 32);
  ECDSA_SIG_free(parts);
  return to_base64url(raw);
}

void judge(std::string_view token, bool signed_by_us) {
  const auto claims = validate_jwt_svid(token, kAudience, authorities_of, kNow);
  const auto form = read_jwt_svid(token);
  if (!form) {
    must(!claims && !sentence(form.error().error).empty());
    must(form.error().detail.find('\n') == std::string::npos);
  }
  if (!claims) {
    must(claims.error().detail.find('\n') == std::string::npos);
    return;
  }
  must(signed_by_us && token.size() <= kMaxJwtBytes);
  must(claims->subject.trust_domain() == "example.org" && !claims->subject.path().empty());
  must(claims->expires > kNow);
  must(std::find(claims->audience.begin(), claims->audience.end(), kAudience) !=
       claims->audience.end());
  must(form->subject.uri() == claims->subject.uri() && form->audience == claims->audience &&
       form->json == claims->json);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  Input input(data, size);
  const std::uint8_t kind = input.byte();
  if (kind % 4 == 0) {
    const auto set = parse_jwt_authorities(input.text());
    if (!set) return 0;
    const auto again = parse_jwt_authorities(jwk_set(*set));
    must(again.has_value());
    for (const auto &[id, der] : *again) must(set->contains(id) && set->find(id)->second == der);
  } else if (kind % 4 == 1) {
    judge(input.text(), false);
  } else {
    const std::string_view text = input.text();
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string head = encoded(text.substr(0, end));
    const std::string claims = encoded(end < text.size() ? text.substr(end + 1) : "");
    std::string token = head + "." + claims;
    token += "." + signature_of(token);
    judge(token, true);
    if (kind % 4 == 3) {  // a signature of something else
      token[token.size() - 40] = token[token.size() - 40] == 'A' ? 'B' : 'A';
      judge(token, false);
    }
  }
  return 0;
}
