#include "identity/bundle.h"

#include <doctest/doctest.h>

#include <array>

#include "certificates.h"

using namespace inlay;
using namespace inlay::testing;
using identity::parse_bundle;

namespace {

const std::string &pem() {
  static const std::string text = to_pem(make_authority("example.org").certificate.get());
  return text;
}
const std::string &other_pem() {
  static const std::string text = to_pem(make_authority("example.org").certificate.get());
  return text;
}
const std::string &der() {
  static const std::string text = to_base64_der(make_authority("example.org").certificate.get());
  return text;
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

// %: a certificate as base64 DER.
std::string json(std::string_view text) { return replaced(std::string(text), "%", der()); }

std::string complaint(std::string_view text) {
  const auto bundle = parse_bundle(text);
  if (bundle) return "";
  CHECK(bundle.error().message.find('\n') == std::string::npos);
  return bundle.error().message;
}

}  // namespace

TEST_CASE("PEM bundles as they are found in the wild are read") {
  struct Row {
    const char *name;
    std::string text;
    std::size_t count;
  };
  const Row rows[] = {
      {"one", pem(), 1},
      {"two", pem() + other_pem(), 2},
      {"CRLF", replaced(pem() + other_pem(), "\n", "\r\n"), 2},
      {"trailing blank lines", pem() + "\n\n  \n", 1},
      {"no newline at the end", pem().substr(0, pem().size() - 1), 1},
      {"text between", "# root\n" + pem() + "\nsubject=CN = x\n----\n" + other_pem() + "end\n", 2},
      {"a byte order mark", "\xef\xbb\xbf" + pem(), 1},
      {"a key among them", to_pem(make_key(KeyKind::p256).get()) + pem(), 1},
      {"the same twice", pem() + pem(), 2},
  };
  for (const Row &row : rows) {
    CAPTURE(row.name);
    const auto bundle = parse_bundle(row.text);
    REQUIRE(bundle);
    CHECK(bundle->authorities.size() == row.count);
    CHECK(bundle->sequence == 0);
  }
}

TEST_CASE("PEM that holds no certificate, or is damaged, is an error") {
  CHECK(complaint("").find("no certificate") != std::string::npos);
  CHECK(complaint("hello\n").find("no certificate") != std::string::npos);
  CHECK(complaint(to_pem(make_key(KeyKind::p256).get())).find("no certificate") !=
        std::string::npos);
  CHECK(complaint("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") ==
        "PEM block 1 does not hold a certificate");
  CHECK(complaint(pem() + "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n") ==
        "PEM block 2 is damaged or cut short");
}

TEST_CASE(
    "a PEM bundle cut anywhere after its first certificate is an error, never a smaller bundle") {
  const std::string whole = pem() + other_pem();
  // Without the final newline it is whole.
  for (std::size_t length = pem().size() + 1; length < whole.size() - 1; ++length) {
    CAPTURE(length);
    CHECK_FALSE(parse_bundle(std::string_view(whole).substr(0, length)));
  }
}

TEST_CASE("SPIFFE JSON bundles are read") {
  struct Row {
    const char *name;
    std::string text;
    std::size_t count;
    std::uint64_t sequence;
  };
  const Row rows[] = {
      {"one", json(R"({"keys":[{"kty":"EC","use":"x509-svid","x5c":["%"]}]})"), 1, 0},
      {"RSA, order, unknown parameters",
       json(R"( {"spiffe_refresh_hint":300,"x":{"y":[1.5,null,true]},"spiffe_sequence":7,
               "keys":[{"x5c":["%"],"use":"x509-svid","kty":"RSA","n":"0","e":"AQAB"}]})"),
       1, 7},
      {"two", json(R"({"keys":[{"kty":"EC","use":"x509-svid","x5c":["%"]},
                               {"kty":"EC","use":"x509-svid","x5c":["%"]}]})"),
       2, 0},
      {"jwt-svid is not for certificates",
       json(R"({"keys":[{"kty":"EC","use":"jwt-svid","kid":"a","x":"","y":""},
                        {"kty":"EC","use":"jwt-svid","kid":"b","x5c":["%"]},
                        {"kty":"EC","use":"x509-svid","x5c":["%"]}]})"),
       1, 0},
      {"unknown kty", json(R"({"keys":[{"kty":"XY","use":"x509-svid","x5c":["!"]}]})"), 0, 0},
      {"no kty", json(R"({"keys":[{"use":"x509-svid","x5c":["%"]}]})"), 0, 0},
      {"unknown use", json(R"({"keys":[{"kty":"EC","use":"X509-SVID","x5c":["%"]}]})"), 0, 0},
      {"no use", json(R"({"keys":[{"kty":"EC","x5c":["%"]}]})"), 0, 0},
      {"use is no string", json(R"({"keys":[{"kty":"EC","use":1,"x5c":["%"]}]})"), 0, 0},
      {"empty keys", R"({"keys":[]})", 0, 0},
      {"2^53 + 1", R"({"keys":[],"spiffe_sequence":9007199254740993})", 0, 9007199254740993},
      {"2^64 - 1", R"({"keys":[],"spiffe_sequence":18446744073709551615})", 0,
       18446744073709551615ULL},
  };
  for (const Row &row : rows) {
    CAPTURE(row.name);
    const auto bundle = parse_bundle(row.text);
    if (!bundle) FAIL_CHECK(bundle.error().message);
    REQUIRE(bundle);
    CHECK(bundle->authorities.size() == row.count);
    CHECK(bundle->sequence == row.sequence);
  }
}

TEST_CASE("SPIFFE JSON that could be read in two ways, or is broken, is an error") {
  struct Row {
    std::string text;
    const char *says;
  };
  const Row rows[] = {
      {"{}", "\"keys\" is missing"},
      {R"({"spiffe_sequence":1})", "\"keys\" is missing"},
      {R"({"trust_domains":{}})", "map of bundles"},
      {R"({"keys":{}})", "not an array"},
      {R"({"keys":null})", "not an array"},
      {"[]", "not an object"},
      {R"({"keys":[1]})", "keys[0] is not an object"},
      {R"({"keys":[],"keys":[]})", "\"keys\" occurs twice"},
      {R"({"keys":[],"x":{"a":1,"a":2}})", "\"a\" occurs twice"},
      {R"({"keys":[],"ke\u0079s":[]})", "\"keys\" occurs twice"},
      {json(R"({"keys":[{"kty":"EC","use":"jwt-svid","use":"x509-svid","x5c":["%"]}]})"),
       "\"use\" occurs twice"},
      {R"({"keys":[)", "not valid JSON"},
      {R"({"keys":[]} x)", "not valid JSON"},
      {R"({"keys":[],})", "not valid JSON"},
      {"{\"keys\":[],\"a\":\"\xff\"}", "not valid JSON"},
      {R"({"keys":[{"kty":"EC","use":"x509-svid"}]})", "exactly one x5c"},
      {R"({"keys":[{"kty":"EC","use":"x509-svid","x5c":[]}]})", "exactly one x5c"},
      {R"({"keys":[{"kty":"EC","use":"x509-svid","x5c":"AAAA"}]})", "exactly one x5c"},
      {json(R"({"keys":[{"kty":"EC","use":"x509-svid","x5c":["%","%"]}]})"), "exactly one x5c"},
      {R"({"keys":[{"kty":"EC","use":"x509-svid","x5c":[1]}]})", "no base64 DER certificate"},
      {R"({"keys":[{"kty":"EC","use":"x509-svid","x5c":[""]}]})", "no base64 DER certificate"},
      {R"({"keys":[{"kty":"EC","use":"x509-svid","x5c":["AAAA"]}]})", "no base64 DER certificate"},
      {json(R"({"keys":[{"kty":"EC","use":"x509-svid","x5c":[" %"]}]})"),
       "no base64 DER certificate"},
      {json(R"({"keys":[{"kty":"EC","use":"x509-svid","x5c":["%AAAA"]}]})"),
       "no base64 DER certificate"},
      {R"({"keys":[],"spiffe_sequence":-1})", "spiffe_sequence"},
      {R"({"keys":[],"spiffe_sequence":1.0})", "spiffe_sequence"},
      {R"({"keys":[],"spiffe_sequence":"1"})", "spiffe_sequence"},
      {R"({"keys":[],"spiffe_sequence":18446744073709551616})", "spiffe_sequence"},
      {R"({"keys":)" + std::string(100000, '['), "nested too deeply"},
  };
  for (const Row &row : rows) {
    CAPTURE(row.text.substr(0, 80));
    const std::string message = complaint(row.text);
    CAPTURE(message);
    CHECK(message.find(row.says) != std::string::npos);
  }
}

TEST_CASE("a SPIFFE JSON bundle cut anywhere is an error") {
  const std::string whole = json(R"({"keys":[{"kty":"EC","use":"x509-svid","x5c":["%"]}]})");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CAPTURE(length);
    CHECK_FALSE(parse_bundle(std::string_view(whole).substr(0, length)));
  }
}
