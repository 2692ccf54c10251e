#include "identity/est.h"

#include <doctest/doctest.h>
#include <openssl/x509v3.h>

#include <algorithm>

#include "certificates.h"
#include "identity/authority.h"
#include "identity/certificate.h"
#include "identity/csr.h"
#include "identity/svid.h"

using namespace inlay;
using namespace inlay::identity;

TEST_CASE("certificates come out of a certs-only message as they went in") {
  std::vector<std::string> ders;
  for (int i = 0; i < 3; ++i) {
    ders.push_back(certificate_der(testing::make_authority("example.org").certificate.get()));
  }
  const std::string message = certs_only(ders);
  const auto read = certificates_of(message);
  REQUIRE_MESSAGE(read, read.error());
  REQUIRE(read->size() == 3);
  for (const X509Ptr &certificate : *read) {
    CHECK(std::count(ders.begin(), ders.end(), certificate_der(certificate.get())) == 1);
  }
  CHECK(!certificates_of(message + "x"));
  for (std::size_t length = 0; length < message.size(); length += 7) {
    CHECK(!certificates_of(std::string_view(message).substr(0, length)));
  }
  CHECK(!certificates_of(certs_only({})));
  CHECK(certs_only({"no certificate"}).empty());
  CHECK(!certificates_of(ders[0]));
  CHECK(!certificates_of(std::string(kMaxEstBytes + 1, '0')));
}

TEST_CASE("base64 is written in lines and read with any white space") {
  const std::string bytes(100, '\xff');
  const std::string text = est_base64(bytes);
  CHECK(text.substr(62, 6) == "//\r\n//");
  CHECK(from_est_base64(text) == bytes);
  CHECK(from_est_base64(" YQ\t=\n=\r\n") == std::string("a"));
  for (const char *bad : {"", "  ", "Y", "YQ", "YQ==YQ==", "YQ==x", "Y-==", "-----BEGIN"}) {
    CHECK_MESSAGE(!from_est_base64(bad), bad);
  }
  CHECK(!from_est_base64(std::string(kMaxEstBytes + 4, 'A')));
}

TEST_CASE("a CSR says what it asks for beside its key") {
  const PkeyPtr key = testing::make_key(testing::KeyKind::p256);
  auto wishes = wishes_of_csr(make_csr(key.get()));
  REQUIRE(wishes);
  CHECK(wishes->subject == kEmptySubject);
  CHECK(wishes->uris.empty());
  CHECK(!wishes->other_names);
  CHECK(!wishes->authority);
  wishes = wishes_of_csr(make_csr(key.get(), "spiffe://example.org/web"));
  REQUIRE(wishes);
  CHECK(wishes->uris == std::vector<std::string>{"spiffe://example.org/web"});
  testing::Knobs knobs;
  knobs.subject = "device 7";
  knobs.dns_names = {"seven.example.org"};
  const auto device =
      testing::issue(testing::make_authority("example.org"), "spiffe://example.org/d", knobs);
  const std::string like = make_csr_like(key.get(), device.certificate.get());
  CHECK(public_key_of_csr(like));
  wishes = wishes_of_csr(like);
  REQUIRE(wishes);
  CHECK(wishes->subject != kEmptySubject);
  CHECK(wishes->uris == std::vector<std::string>{"spiffe://example.org/d"});
  CHECK(wishes->other_names);
  CHECK(!wishes_of_csr("no CSR"));
}

TEST_CASE("the authority's own SVID may name its host, too") {
  const auto authority = Authority::create("example.org", testing::now());
  REQUIRE(authority);
  const PkeyPtr key = testing::make_key(testing::KeyKind::p256);
  const std::vector<std::string> hosts{"ca.example.org", "192.0.2.1", "2001:db8::1"};
  const auto made = authority->sign(*SpiffeId::parse("spiffe://example.org/inlay/ca"), key.get(),
                                    testing::now(), 60, hosts);
  REQUIRE_MESSAGE(made, made.error().message);
  const auto svid = parse_svid_without_key(made->chain);
  REQUIRE(svid);
  X509 *leaf = svid->chain.front().get();
  CHECK(X509_check_host(leaf, "ca.example.org", 0, 0, nullptr) == 1);
  CHECK(X509_check_ip_asc(leaf, "192.0.2.1", 0) == 1);
  CHECK(X509_check_ip_asc(leaf, "2001:db8::1", 0) == 1);
  CHECK(X509_check_ip_asc(leaf, "192.0.2.2", 0) != 1);
}
