// A folder with a development authority, as `inlay ca init` makes it, and a clock that stands
// still.
#pragma once

#include <doctest/doctest.h>
#include <openssl/pem.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "identity/agent/clock.h"
#include "identity/authority.h"
#include "identity/certificate.h"
#include "identity/private_key.h"

namespace inlay::identity::agent::testing {

// Its time is the machine's at first, moved by hand from then on.
struct HandClock {
  std::time_t now = std::time(nullptr);
  std::int64_t elapsed = 1000000;  // milliseconds
  std::int64_t fraction = 0;       // of the second that `now` is in, milliseconds
  double chance = 0;

  // Time goes by.
  void pass(std::time_t seconds) { pass_milliseconds(std::int64_t{seconds} * 1000); }
  void pass_milliseconds(std::int64_t milliseconds) {
    elapsed += milliseconds;
    fraction += milliseconds;
    now += fraction / 1000;
    fraction %= 1000;
  }
  // Somebody sets the clock.
  void set(std::time_t to) { now = to; }
  Clock clock() {
    return {[this] { return now; }, [this] { return elapsed; }, [this] { return chance; }};
  }
};

class AuthorityFolder {
 public:
  explicit AuthorityFolder(const std::string &trust_domain = "example.org",
                           std::time_t now = std::time(nullptr)) {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "inlay-authority-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
    renew(trust_domain, now);
    put("jwt-key.pem", make_jwt_key_pem(), 0600);
  }
  ~AuthorityFolder() { std::filesystem::remove_all(path_); }
  AuthorityFolder(const AuthorityFolder &) = delete;
  AuthorityFolder &operator=(const AuthorityFolder &) = delete;

  // Another authority in place of the one before, with a bundle of its own alone.
  void renew(const std::string &trust_domain = "example.org",
             std::time_t now = std::time(nullptr)) {
    const auto made = Authority::create(trust_domain, now);
    REQUIRE(made);
    put("ca-key.pem", made->key_pem(), 0600);
    put("ca.pem", made->certificate_pem(), 0644);
    put("bundle.pem", made->certificate_pem(), 0644);
  }
  // By rename, as everybody should.
  void put(const std::string &name, const std::string &text, mode_t mode = 0644) const {
    const std::string path = at(name), temporary = path + ".new";
    std::ofstream(temporary, std::ios::trunc) << text;
    REQUIRE(chmod(temporary.c_str(), mode) == 0);
    std::filesystem::rename(temporary, path);
  }
  std::string read(const std::string &name) const {
    std::ifstream file(at(name));
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::string at(const std::string &name) const { return path_ + "/" + name; }
  const std::string &path() const { return path_; }

 private:
  std::string path_;
};

// A CRL in PEM by that authority. `revoked`: the one it revokes, or null.
inline std::string make_crl(const std::string &certificate_pem, const std::string &key_pem,
                            const X509 *revoked, std::time_t next_update) {
  const auto authority = certificates_from_pem(certificate_pem);
  const auto key = private_key_from_pem(key_pem);
  REQUIRE(authority);
  REQUIRE(key);
  const auto time = [](std::time_t of) {
    return std::unique_ptr<ASN1_TIME, OpensslDelete<ASN1_TIME_free>>(ASN1_TIME_set(nullptr, of));
  };
  const std::unique_ptr<X509_CRL, OpensslDelete<X509_CRL_free>> crl(X509_CRL_new());
  X509_CRL_set_version(crl.get(), X509_CRL_VERSION_2);
  X509_CRL_set_issuer_name(crl.get(), X509_get_subject_name(authority->front().get()));
  X509_CRL_set1_lastUpdate(crl.get(), time(std::time(nullptr) - 60).get());
  X509_CRL_set1_nextUpdate(crl.get(), time(next_update).get());
  if (revoked != nullptr) {
    X509_REVOKED *const entry = X509_REVOKED_new();
    auto *const serial = const_cast<ASN1_INTEGER *>(X509_get0_serialNumber(revoked));
    X509_REVOKED_set_serialNumber(entry, serial);
    X509_REVOKED_set_revocationDate(entry, time(std::time(nullptr) - 60).get());
    X509_CRL_add0_revoked(crl.get(), entry);
  }
  REQUIRE(X509_CRL_sign(crl.get(), key->get(), EVP_sha256()) > 0);
  const BioPtr out(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509_CRL(out.get(), crl.get());
  char *data = nullptr;
  const long length = BIO_get_mem_data(out.get(), &data);
  return {data, static_cast<std::size_t>(length)};
}

}  // namespace inlay::identity::agent::testing
