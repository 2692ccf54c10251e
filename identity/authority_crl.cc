// Authority: the CRLs it signs (RFC 5280 §5).
#include <fmt/format.h>
#include <openssl/x509v3.h>

#include "identity/authority.h"
#include "identity/certificate.h"

namespace inlay::identity {
namespace {

using TimePtr = std::unique_ptr<ASN1_TIME, OpensslDelete<ASN1_TIME_free>>;
using NumberPtr = std::unique_ptr<ASN1_INTEGER, OpensslDelete<ASN1_INTEGER_free>>;
using BigNumberPtr = std::unique_ptr<BIGNUM, OpensslDelete<BN_free>>;
using RevokedPtr = std::unique_ptr<X509_REVOKED, OpensslDelete<X509_REVOKED_free>>;
using DigestAlgorithmPtr = std::unique_ptr<EVP_MD, OpensslDelete<EVP_MD_free>>;
using KeyIdPtr = std::unique_ptr<AUTHORITY_KEYID, OpensslDelete<AUTHORITY_KEYID_free>>;

NumberPtr serial_number(const std::string &text) {
  BIGNUM *raw = nullptr;
  const bool good = !text.empty() && BN_hex2bn(&raw, text.c_str()) == static_cast<int>(text.size());
  const BigNumberPtr number(raw);
  return good ? NumberPtr(BN_to_ASN1_INTEGER(number.get(), nullptr)) : nullptr;
}

bool add_entry(X509_CRL *crl, const RevokedSerial &revoked) {
  RevokedPtr entry(X509_REVOKED_new());
  const NumberPtr serial = serial_number(revoked.serial);
  const TimePtr at(ASN1_TIME_set(nullptr, revoked.at));
  if (!entry || !serial || !at || X509_REVOKED_set_serialNumber(entry.get(), serial.get()) != 1 ||
      X509_REVOKED_set_revocationDate(entry.get(), at.get()) != 1 ||
      X509_CRL_add0_revoked(crl, entry.get()) != 1) {
    return false;
  }
  (void)entry.release();
  return true;
}

bool add_key_identifier(X509_CRL *crl, const X509 *issuer) {
  const ASN1_OCTET_STRING *const key_id = X509_get0_subject_key_id(const_cast<X509 *>(issuer));
  if (key_id == nullptr) return true;
  const KeyIdPtr authority(AUTHORITY_KEYID_new());
  if (!authority || (authority->keyid = ASN1_OCTET_STRING_dup(key_id)) == nullptr) return false;
  return X509_CRL_add1_ext_i2d(crl, NID_authority_key_identifier, authority.get(), 0, 0) == 1;
}

}  // namespace

tl::expected<std::string, AuthorityError> Authority::make_crl(
    std::span<const RevokedSerial> revoked, std::time_t now, std::time_t lifetime) const {
  const ErrorMark mark;
  const X509CrlPtr crl(X509_CRL_new_ex(library_context(), nullptr));
  const TimePtr from(ASN1_TIME_set(nullptr, now)), until(ASN1_TIME_set(nullptr, now + lifetime));
  // The time is a number that only grows, for several servers too (§5.2.3).
  const NumberPtr number(ASN1_INTEGER_new());
  const DigestAlgorithmPtr digest(EVP_MD_fetch(library_context(), "SHA256", nullptr));
  bool made = crl && from && until && number && digest &&
              X509_CRL_set_version(crl.get(), X509_CRL_VERSION_2) == 1 &&
              X509_CRL_set_issuer_name(crl.get(), X509_get_subject_name(certificate_.get())) == 1 &&
              X509_CRL_set1_lastUpdate(crl.get(), from.get()) == 1 &&
              X509_CRL_set1_nextUpdate(crl.get(), until.get()) == 1 &&
              ASN1_INTEGER_set_int64(number.get(), now) == 1 &&
              X509_CRL_add1_ext_i2d(crl.get(), NID_crl_number, number.get(), 0, 0) == 1 &&
              add_key_identifier(crl.get(), certificate_.get());
  for (const RevokedSerial &entry : revoked) made = made && add_entry(crl.get(), entry);
  made = made && X509_CRL_sort(crl.get()) == 1 &&
         X509_CRL_sign(crl.get(), key_.get(), digest.get()) > 0;
  unsigned char *der = nullptr;
  const int length = made ? i2d_X509_CRL(crl.get(), &der) : 0;
  if (length <= 0) return tl::unexpected(AuthorityError{"OpenSSL could not make the CRL"});
  std::string bytes(reinterpret_cast<const char *>(der), static_cast<std::size_t>(length));
  OPENSSL_free(der);
  return bytes;
}

}  // namespace inlay::identity
