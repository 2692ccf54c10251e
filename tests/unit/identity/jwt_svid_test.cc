#include "identity/jwt_svid.h"

#include <doctest/doctest.h>
#include <openssl/err.h>
#include <openssl/rsa.h>

#include <map>

#include "certificates.h"
#include "identity/base64.h"
#include "identity/jwk.h"

using namespace inlay;
using namespace inlay::testing;
using namespace inlay::identity;

namespace {

constexpr std::time_t kNow = 1700000000;
const std::string kGoodHeader = R"({"alg":"ES256","kid":"k","typ":"JWT"})";
const std::string kGoodClaims =
    R"({"sub":"spiffe://example.org/web","aud":["db"],"exp":1700000300,"iat":1700000000})";

EVP_PKEY *key(KeyKind kind = KeyKind::p256) {
  static std::map<KeyKind, PkeyPtr> keys;
  auto &made = keys[kind];
  if (!made) made = make_key(kind);
  return made.get();
}

std::string encoded(std::string_view text) {
  return to_base64url({reinterpret_cast<const unsigned char *>(text.data()), text.size()});
}

// ES256 in raw form, by the code under test; the others by OpenSSL's plain calls.
std::string signature(const std::string &text, EVP_PKEY *with, const char *digest, int padding) {
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  EVP_PKEY_CTX *of_key = nullptr;
  REQUIRE(EVP_DigestSignInit_ex(context, &of_key, digest, library_context(), nullptr, with,
                                nullptr) == 1);
  if (padding != 0) REQUIRE(EVP_PKEY_CTX_set_rsa_padding(of_key, padding) == 1);
  if (padding == RSA_PKCS1_PSS_PADDING) {
    REQUIRE(EVP_PKEY_CTX_set_rsa_pss_saltlen(of_key, RSA_PSS_SALTLEN_DIGEST) == 1);
  }
  const auto *data = reinterpret_cast<const unsigned char *>(text.data());
  std::size_t length = 0;
  EVP_DigestSign(context, nullptr, &length, data, text.size());
  std::string bytes(length, '\0');
  REQUIRE(EVP_DigestSign(context, reinterpret_cast<unsigned char *>(bytes.data()), &length, data,
                         text.size()) == 1);
  bytes.resize(length);
  EVP_MD_CTX_free(context);
  if (padding != 0) return bytes;
  // DER to r||s by hand: SEQUENCE { INTEGER r, INTEGER s }.
  const auto half = static_cast<std::size_t>((EVP_PKEY_get_bits(with) + 7) / 8);
  std::size_t at = static_cast<unsigned char>(bytes[1]) > 0x80 ? 3 : 2;
  std::string raw;
  for (int number = 0; number < 2; ++number) {
    std::string digits = bytes.substr(at + 2, static_cast<unsigned char>(bytes[at + 1]));
    at += 2 + digits.size();
    if (digits.size() > half) digits.erase(0, digits.size() - half);
    raw += std::string(half - digits.size(), '\0') + digits;
  }
  return raw;
}

std::string token(const std::string &header, const std::string &claims, EVP_PKEY *with = key(),
                  const char *digest = "SHA256", int padding = 0) {
  const std::string text = encoded(header) + "." + encoded(claims);
  return text + "." + encoded(signature(text, with, digest, padding));
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != text.npos);
  return text.replace(at, from.size(), to);
}

tl::expected<JwtClaims, JwtFailure> validate(const std::string &text, EVP_PKEY *trusted = key(),
                                             std::time_t now = kNow,
                                             std::string_view audience = "db") {
  const JwtAuthorities authorities{{"k", public_key_der(trusted)}};
  return validate_jwt_svid(
      text, audience,
      [&](std::string_view trust_domain) {
        return trust_domain == "example.org" ? &authorities : nullptr;
      },
      now);
}

std::string outcome(const tl::expected<JwtClaims, JwtFailure> &result) {
  if (result) return "good";
  CHECK(result.error().detail.find('\n') == std::string::npos);
  return std::string(sentence(result.error().error));
}
std::string bad(JwtError error) { return std::string(sentence(error)); }

SpiffeId web() { return *SpiffeId::parse("spiffe://example.org/web"); }

}  // namespace

TEST_CASE("a JWT-SVID that is issued is valid until it expires, for its audience") {
  const std::string names[] = {"db", "spiffe://example.org/cache"};
  const auto issued = issue_jwt_svid(web(), names, key(), kNow, 300);
  REQUIRE(issued);
  const JwtAuthorities authorities{{jwt_key_id(key()), public_key_der(key())}};
  const auto of = [&](std::string_view) { return &authorities; };
  const auto claims = validate_jwt_svid(*issued, "spiffe://example.org/cache", of, kNow + 299);
  REQUIRE(claims);
  CHECK(claims->subject.uri() == "spiffe://example.org/web");
  CHECK(claims->audience == std::vector<std::string>(std::begin(names), std::end(names)));
  CHECK(claims->expires == kNow + 300);
  CHECK(claims->json.find("\"iat\":1700000000") != std::string::npos);
  CHECK(outcome(validate_jwt_svid(*issued, "db", of, kNow + 300)) == bad(JwtError::expired));
  CHECK(outcome(validate_jwt_svid(*issued, "web", of, kNow)) == bad(JwtError::wrong_audience));
  CHECK(outcome(validate_jwt_svid(*issued, "", of, kNow)) == bad(JwtError::wrong_audience));
  REQUIRE(read_jwt_svid(*issued));
  CHECK(read_jwt_svid(*issued)->expires == kNow + 300);
}

TEST_CASE("what no peer would take is not issued") {
  const auto issue = [](const char *id, std::vector<std::string> audience, EVP_PKEY *with) {
    const auto issued = issue_jwt_svid(*SpiffeId::parse(id), audience, with, kNow, 300);
    return issued ? "good" : std::string(sentence(issued.error().error));
  };
  CHECK(issue("spiffe://example.org/web", {"db"}, key()) == "good");
  CHECK(issue("spiffe://example.org", {"db"}, key()) == bad(JwtError::no_subject));
  CHECK(issue("spiffe://example.org/web", {}, key()) == bad(JwtError::no_audience));
  CHECK(issue("spiffe://example.org/web", {"db", ""}, key()) == bad(JwtError::no_audience));
  CHECK(issue("spiffe://example.org/web", {"\xff"}, key()) == bad(JwtError::no_audience));
  CHECK(issue("spiffe://example.org/web", {"db"}, key(KeyKind::p384)) == bad(JwtError::algorithm));
}

TEST_CASE("each of the nine algorithms, with a key of its kind and with one of another") {
  struct Row {
    const char *algorithm;
    KeyKind kind;
    const char *digest;
    int padding;
  };
  const Row rows[] = {
      {"ES256", KeyKind::p256, "SHA256", 0},
      {"ES384", KeyKind::p384, "SHA384", 0},
      {"ES512", KeyKind::p521, "SHA512", 0},
      {"RS256", KeyKind::rsa2048, "SHA256", RSA_PKCS1_PADDING},
      {"RS384", KeyKind::rsa2048, "SHA384", RSA_PKCS1_PADDING},
      {"RS512", KeyKind::rsa2048, "SHA512", RSA_PKCS1_PADDING},
      {"PS256", KeyKind::rsa2048, "SHA256", RSA_PKCS1_PSS_PADDING},
      {"PS384", KeyKind::rsa2048, "SHA384", RSA_PKCS1_PSS_PADDING},
      {"PS512", KeyKind::rsa2048, "SHA512", RSA_PKCS1_PSS_PADDING},
  };
  for (const Row &row : rows) {
    CAPTURE(row.algorithm);
    const std::string text = token(replaced(kGoodHeader, "ES256", row.algorithm), kGoodClaims,
                                   key(row.kind), row.digest, row.padding);
    CHECK(outcome(validate(text, key(row.kind))) == "good");
    // The same signature under another name of the nine does not hold.
    for (const Row &other : rows) {
      if (&other == &row) continue;
      CAPTURE(other.algorithm);
      const std::string parts[] = {encoded(replaced(kGoodHeader, "ES256", other.algorithm)),
                                   encoded(kGoodClaims)};
      const std::string forged =
          parts[0] + "." + parts[1] + "." +
          encoded(signature(parts[0] + "." + parts[1], key(row.kind), row.digest, row.padding));
      CHECK(outcome(validate(forged, key(row.kind))) == bad(JwtError::bad_signature));
    }
  }
  const std::string weak = token(replaced(kGoodHeader, "ES256", "RS256"), kGoodClaims,
                                 key(KeyKind::rsa1024), "SHA256", RSA_PKCS1_PADDING);
  CHECK(outcome(validate(weak, key(KeyKind::rsa1024))) == bad(JwtError::bad_signature));
}

TEST_CASE("headers: no algorithm but the nine, no type but two, nothing that must be understood") {
  struct Row {
    const char *header;
    JwtError error;
  };
  const Row rows[] = {
      {R"({"alg":"none","kid":"k"})", JwtError::algorithm},
      {R"({"alg":"None","kid":"k"})", JwtError::algorithm},
      {R"({"alg":"HS256","kid":"k"})", JwtError::algorithm},
      {R"({"alg":"HS512","kid":"k"})", JwtError::algorithm},
      {R"({"alg":"EdDSA","kid":"k"})", JwtError::algorithm},
      {R"({"alg":"ES256K","kid":"k"})", JwtError::algorithm},
      {R"({"alg":"es256","kid":"k"})", JwtError::algorithm},
      {R"({"alg":"","kid":"k"})", JwtError::algorithm},
      {R"({"kid":"k"})", JwtError::algorithm},
      {R"({"alg":["ES256"],"kid":"k"})", JwtError::algorithm},
      {R"({"alg":"ES256","kid":"k","typ":"jwt"})", JwtError::wrong_type},
      {R"({"alg":"ES256","kid":"k","typ":"at+jwt"})", JwtError::wrong_type},
      {R"({"alg":"ES256","kid":"k","typ":"wit+jwt"})", JwtError::wrong_type},
      {R"({"alg":"ES256","kid":"k","typ":null})", JwtError::wrong_type},
      {R"({"alg":"ES256","kid":"k","crit":["exp"],"exp":1})", JwtError::critical},
      {R"({"alg":"ES256","kid":"k","crit":[]})", JwtError::critical},
      {R"({"alg":"ES256"})", JwtError::unknown_key},
      {R"({"alg":"ES256","kid":""})", JwtError::unknown_key},
      {R"({"alg":"ES256","kid":"K"})", JwtError::unknown_key},
      {R"({"alg":"ES256","kid":["k"]})", JwtError::unknown_key},
      {R"({"alg":"ES256","alg":"none","kid":"k"})", JwtError::malformed},
      {R"({"alg":"ES256","kid":"k"}{})", JwtError::malformed},
      {R"(["ES256"])", JwtError::malformed},
      {"", JwtError::malformed},
  };
  for (const Row &row : rows) {
    CAPTURE(row.header);
    CHECK(outcome(validate(token(row.header, kGoodClaims))) == bad(row.error));
  }
  for (const char *good :
       {R"({"alg":"ES256","kid":"k"})", R"({"alg":"ES256","kid":"k","typ":"JOSE"})",
        R"({"alg":"ES256","kid":"k","typ":"JWT","jku":"https://a.test","x5c":[]})"}) {
    CAPTURE(good);
    CHECK(outcome(validate(token(good, kGoodClaims))) == "good");
  }
}

TEST_CASE("claims: subject, audience and expiry, each there and of its kind") {
  struct Row {
    const char *from;
    const char *to;
    JwtError error;
  };
  const std::string subject = R"("sub":"spiffe://example.org/web",)";
  const Row rows[] = {
      {subject.c_str(), "", JwtError::no_subject},
      {"spiffe://example.org/web", "spiffe://example.org", JwtError::no_subject},
      {"spiffe://example.org/web", "spiffe://example.org/../web", JwtError::no_subject},
      {"spiffe://example.org/web", "SPIFFE://example.org/web", JwtError::no_subject},
      {"spiffe://example.org/web", "alice", JwtError::no_subject},
      {"\"spiffe://example.org/web\"", "[\"spiffe://example.org/web\"]", JwtError::no_subject},
      {"spiffe://example.org/web", "spiffe://other.org/web", JwtError::unknown_trust_domain},
      {R"("aud":["db"],)", "", JwtError::no_audience},
      {R"(["db"])", "[]", JwtError::no_audience},
      {R"(["db"])", "\"\"", JwtError::malformed},
      {R"(["db"])", R"(["db",""])", JwtError::malformed},
      {R"(["db"])", R"(["db",1])", JwtError::malformed},
      {R"(["db"])", R"({"db":1})", JwtError::malformed},
      {R"(["db"])", R"(["DB"])", JwtError::wrong_audience},
      {R"(["db"])", R"("d")", JwtError::wrong_audience},
      {R"("exp":1700000300,)", "", JwtError::no_expiry},
      {"1700000300", "\"1700000300\"", JwtError::malformed},
      {"1700000300", "null", JwtError::malformed},
      {"1700000300", "-1", JwtError::malformed},
      {"1700000300", "1e300", JwtError::malformed},
      {"1700000300", "99999999999999999999999", JwtError::malformed},
      {"1700000300", "1700000000", JwtError::expired},
      {"1700000300", "0", JwtError::expired},
      {"\"iat\":", "\"nbf\":1700000061,\"iat\":", JwtError::not_yet_valid},
      {"\"iat\":", "\"nbf\":\"soon\",\"iat\":", JwtError::malformed},
      {"\"iat\":", "\"exp\":1800000000,\"iat\":", JwtError::malformed},
  };
  for (const Row &row : rows) {
    CAPTURE(row.from);
    CAPTURE(row.to);
    CHECK(outcome(validate(token(kGoodHeader, replaced(kGoodClaims, row.from, row.to)))) ==
          bad(row.error));
  }
  const char *const good[][2] = {{R"(["db"])", "\"db\""},
                                 {R"(["db"])", R"(["cache","db"])"},
                                 {"1700000300", "1700000300.5"},
                                 {"1700000300", "1.7000003e9"},
                                 {"1700000300", "253402300799"},
                                 {"\"iat\":", "\"nbf\":1700000060,\"iat\":"},
                                 {"\"iat\":", "\"iss\":\"https://a.test\",\"iat\":"}};
  for (const auto &[from, to] : good) {
    CAPTURE(to);
    CHECK(outcome(validate(token(kGoodHeader, replaced(kGoodClaims, from, to)))) == "good");
  }
}

TEST_CASE("a token is three parts of base64url in one spelling, and no longer than it may be") {
  const std::string good = token(kGoodHeader, kGoodClaims);
  REQUIRE(outcome(validate(good)) == "good");
  const std::size_t first = good.find('.'), second = good.rfind('.');
  const std::string json = R"({"payload":")" + good.substr(first + 1, second - first - 1) +
                           R"(","protected":")" + good.substr(0, first) + R"(","signature":")" +
                           good.substr(second + 1) + "\"}";
  const std::string bad_forms[] = {"",
                                   ".",
                                   "..",
                                   good.substr(0, second),
                                   good.substr(0, second + 1),
                                   good + ".",
                                   good + "." + good.substr(second + 1),
                                   good + "=",
                                   good + "\n",
                                   " " + good,
                                   "Bearer " + good,
                                   good.substr(0, first) + ".." + good.substr(second + 1),
                                   good.substr(first),
                                   json,
                                   std::string(kMaxJwtBytes + 1, 'a')};
  for (const std::string &text : bad_forms) {
    CAPTURE(text);
    CHECK(outcome(validate(text)) == bad(JwtError::malformed));
  }
  // The last character of 64 bytes has four bits that no byte takes up.
  for (char last :
       std::string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")) {
    if (last == good.back()) continue;
    CHECK(outcome(validate(good.substr(0, good.size() - 1) + last)) != "good");
  }
}

TEST_CASE("a signature holds for what it was made for, and is r and s in full length") {
  const std::string good = token(kGoodHeader, kGoodClaims);
  const std::size_t second = good.rfind('.');
  const auto raw = *from_base64url(good.substr(second + 1));
  REQUIRE(raw.size() == 64);
  const auto with = [&](std::vector<unsigned char> bytes) {
    return outcome(validate(good.substr(0, second + 1) + to_base64url(bytes)));
  };
  CHECK(with(raw) == "good");
  std::vector<std::vector<unsigned char>> forged{std::vector<unsigned char>(64, 0),
                                                 std::vector<unsigned char>(64, 0xff)};
  forged.emplace_back(raw.begin(), raw.end() - 1);
  forged.push_back(raw);
  forged.back().push_back(0);
  forged.push_back(raw);
  forged.back().insert(forged.back().begin(), 0);
  for (const std::size_t at : {0u, 31u, 32u, 63u}) {
    forged.push_back(raw);
    forged.back()[at] ^= 1;
  }
  // DER is what OpenSSL would take.
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  std::vector<unsigned char> der(80);
  std::size_t length = der.size();
  REQUIRE(EVP_DigestSignInit_ex(context, nullptr, "SHA256", library_context(), nullptr, key(),
                                nullptr) == 1);
  REQUIRE(EVP_DigestSign(context, der.data(), &length,
                         reinterpret_cast<const unsigned char *>(good.data()), second) == 1);
  EVP_MD_CTX_free(context);
  der.resize(length);
  forged.push_back(der);
  for (const auto &bytes : forged) CHECK(with(bytes) == bad(JwtError::bad_signature));

  const PkeyPtr other = make_key(KeyKind::p256);
  CHECK(outcome(validate(good, other.get())) == bad(JwtError::bad_signature));
  // Its claims exchanged for another's.
  const std::string forgery = good.substr(0, good.find('.') + 1) +
                              encoded(replaced(kGoodClaims, "/web", "/admin")) +
                              good.substr(second);
  CHECK(outcome(validate(forgery)) == bad(JwtError::bad_signature));
}

TEST_CASE("a token that is both forged and expired is called forged, not expired") {
  const std::string expired = token(kGoodHeader, replaced(kGoodClaims, "1700000300", "1600000000"));
  const PkeyPtr other = make_key(KeyKind::p256);
  CHECK(outcome(validate(expired, other.get())) == bad(JwtError::bad_signature));
  const auto refused = validate(expired);
  REQUIRE_FALSE(refused);
  // Both clocks.
  CHECK(refused.error().detail.find("2020-09-13") != std::string::npos);
  CHECK(refused.error().detail.find("2023-11-14") != std::string::npos);
}

TEST_CASE("OpenSSL's error queue is left as it was") {
  ERR_clear_error();
  (void)validate(token(kGoodHeader, kGoodClaims) + "A");
  (void)validate("a.b.c");
  (void)parse_jwt_authorities(R"({"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]})");
  CHECK(ERR_peek_error() == 0);
}
