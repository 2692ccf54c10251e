#include "identity/authority.h"

#include <fmt/format.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <array>

#include "identity/certificate.h"
#include "identity/extensions.h"
#include "identity/private_key.h"
#include "identity/verify.h"

namespace inlay::identity {
namespace {

using ExtensionPtr = std::unique_ptr<X509_EXTENSION, OpensslDelete<X509_EXTENSION_free>>;
using NumberPtr = std::unique_ptr<BIGNUM, OpensslDelete<BN_clear_free>>;
using DigestAlgorithmPtr = std::unique_ptr<EVP_MD, OpensslDelete<EVP_MD_free>>;

// RFC 5280 §A.1, ub-organization-name.
constexpr std::size_t kMaxNameLength = 64;

tl::unexpected<AuthorityError> error(std::string message) {
  return tl::unexpected(AuthorityError{std::move(message)});
}

PkeyPtr new_key() { return PkeyPtr(EVP_PKEY_Q_keygen(library_context(), nullptr, "EC", "P-256")); }

// RFC 5280 §4.1.2.2: positive, at most 20 octets. 126 random bits.
bool set_random_serial(X509 *certificate) {
  std::array<unsigned char, 16> bytes{};
  if (RAND_bytes_ex(library_context(), bytes.data(), bytes.size(), 0) != 1) return false;
  bytes[0] = static_cast<unsigned char>((bytes[0] & 0x3f) | 0x40);
  const NumberPtr number(BN_bin2bn(bytes.data(), static_cast<int>(bytes.size()), nullptr));
  return number && BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr;
}

bool add_name(X509 *certificate, const char *field, std::string_view text) {
  return X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), field, MBSTRING_UTF8,
                                    reinterpret_cast<const unsigned char *>(text.data()),
                                    static_cast<int>(text.size()), -1, 0) == 1;
}

bool add_extension(X509 *certificate, X509 *issuer, int nid, const std::string &value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  return extension && X509_add_ext(certificate, extension.get(), -1) == 1;
}

bool set_validity(X509 *certificate, std::time_t not_before, std::time_t not_after) {
  return ASN1_TIME_set(X509_getm_notBefore(certificate), not_before) != nullptr &&
         ASN1_TIME_set(X509_getm_notAfter(certificate), not_after) != nullptr;
}

bool sign(X509 *certificate, EVP_PKEY *key) {
  const DigestAlgorithmPtr digest(EVP_MD_fetch(library_context(), "SHA256", nullptr));
  return digest && X509_sign(certificate, key, digest.get()) > 0;
}

// What was just made has OpenSSL's caches of an unfinished certificate: read it afresh.
X509Ptr reread(const X509 *certificate) {
  unsigned char *der = nullptr;
  const int length = i2d_X509(certificate, &der);
  if (length <= 0) return nullptr;
  X509Ptr copy = certificate_from_der({der, static_cast<std::size_t>(length)});
  OPENSSL_free(der);
  return copy;
}

X509Ptr make_root(std::string_view trust_domain, EVP_PKEY *key, std::time_t now) {
  X509Ptr root(X509_new_ex(library_context(), nullptr));
  X509 *const certificate = root.get();
  // The names of two authorities may be equal: the key identifiers tell them apart.
  const bool made =
      root && X509_set_version(certificate, X509_VERSION_3) == 1 &&
      set_random_serial(certificate) &&
      add_name(certificate, "O", trust_domain.substr(0, kMaxNameLength)) &&
      add_name(certificate, "CN", "inlay development authority") &&
      X509_set_issuer_name(certificate, X509_get_subject_name(certificate)) == 1 &&
      set_validity(certificate, now - kBackdate, now + kAuthorityLifetime) &&
      X509_set_pubkey(certificate, key) == 1 &&
      add_extension(certificate, certificate, NID_basic_constraints,
                    "critical,CA:TRUE,pathlen:0") &&
      add_extension(certificate, certificate, NID_key_usage, "critical,keyCertSign,cRLSign") &&
      add_extension(certificate, certificate, NID_subject_key_identifier, "hash") &&
      add_extension(certificate, certificate, NID_subject_alt_name,
                    "URI:spiffe://" + std::string(trust_domain)) &&
      sign(certificate, key);
  return made ? reread(certificate) : nullptr;
}

X509Ptr make_leaf(const SpiffeId &id, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key,
                  std::time_t not_before, std::time_t not_after) {
  X509Ptr leaf(X509_new_ex(library_context(), nullptr));
  X509 *const certificate = leaf.get();
  const bool made =
      leaf && X509_set_version(certificate, X509_VERSION_3) == 1 &&
      set_random_serial(certificate) &&
      X509_set_issuer_name(certificate, X509_get_subject_name(issuer)) == 1 &&
      set_validity(certificate, not_before, not_after) && X509_set_pubkey(certificate, key) == 1 &&
      add_extension(certificate, issuer, NID_basic_constraints, "critical,CA:FALSE") &&
      add_extension(certificate, issuer, NID_key_usage, "critical,digitalSignature") &&
      add_extension(certificate, issuer, NID_ext_key_usage, "serverAuth,clientAuth") &&
      add_extension(certificate, issuer, NID_subject_key_identifier, "hash") &&
      add_extension(certificate, issuer, NID_authority_key_identifier, "keyid:always") &&
      // Critical, for the subject is empty: RFC 5280 §4.1.2.6. No character of a SPIFFE ID has a
      // meaning in this syntax.
      add_extension(certificate, issuer, NID_subject_alt_name, "critical,URI:" + id.uri()) &&
      sign(certificate, issuer_key);
  return made ? reread(certificate) : nullptr;
}

std::string text_of(BIO *bio) {
  char *data = nullptr;
  const long length = BIO_get_mem_data(bio, &data);
  return {data, static_cast<std::size_t>(length)};
}

std::string to_pem(const X509 *certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (!bio || PEM_write_bio_X509(bio.get(), certificate) != 1) return {};
  return text_of(bio.get());
}

std::string to_pem(const EVP_PKEY *key) {
  // Secure memory BIO: cleansed when freed.
  const BioPtr bio(BIO_new(BIO_s_secmem()));
  if (!bio ||
      PEM_write_bio_PKCS8PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return {};
  }
  return text_of(bio.get());
}

// Does the leaf pass what every peer will hold it to?
tl::expected<void, AuthorityError> prove(const X509Ptr &leaf, const X509Ptr &root,
                                         std::string_view trust_domain, std::time_t now) {
  if (X509_up_ref(leaf.get()) != 1) return error("out of memory");
  X509Ptr sent(leaf.get());
  const X509StackPtr chain(sk_X509_new_null());
  if (!chain || sk_X509_push(chain.get(), sent.get()) <= 0) return error("out of memory");
  (void)sent.release();
  BundleSet bundles;
  if (X509_up_ref(root.get()) != 1) return error("out of memory");
  bundles[std::string(trust_domain)].authorities.emplace_back(root.get());
  const auto id = verify_x509_svid(chain.get(), bundles, now);
  if (id) return {};
  return error(fmt::format("the authority issues SVIDs that peers would refuse: {}: {}",
                           sentence(id.error().error), id.error().detail));
}

}  // namespace

tl::expected<Authority, AuthorityError> Authority::create(std::string_view trust_domain,
                                                          std::time_t now) {
  const ErrorMark mark;
  const auto id = SpiffeId::parse("spiffe://" + std::string(trust_domain));
  if (!id) {
    return error(fmt::format("\"{}\" is no trust domain: {}", printable(trust_domain),
                             sentence(id.error())));
  }
  if (!id->path().empty()) {
    return error(fmt::format("\"{}\" is no trust domain: give its name alone, without a path",
                             printable(trust_domain)));
  }
  PkeyPtr key = new_key();
  X509Ptr root = key ? make_root(trust_domain, key.get(), now) : nullptr;
  if (!root) return error("OpenSSL could not make the authority");
  return Authority(*id, std::move(root), std::move(key), now + kAuthorityLifetime);
}

tl::expected<Authority, AuthorityError> Authority::parse(std::string_view certificate_pem,
                                                         std::string_view key_pem) {
  const ErrorMark mark;
  auto certificates = certificates_from_pem(certificate_pem);
  if (!certificates) return error("the authority's certificate: " + certificates.error());
  if (certificates->size() != 1) {
    return error("the authority's file must hold exactly one certificate");
  }
  X509Ptr root = std::move(certificates->front());
  const auto uris = uri_names(root.get());
  const auto id = uris && uris->size() == 1 ? SpiffeId::parse(uris->front())
                                            : tl::unexpected(SpiffeIdError::empty);
  if (!id || !id->path().empty()) {
    return error("the authority's certificate does not name one trust domain (URI SAN)");
  }
  const auto not_after = to_time(X509_get0_notAfter(root.get()));
  if (!not_after) return error("the authority's dates are malformed");
  auto key = private_key_from_pem(key_pem);
  if (!key) return error("the authority: " + key.error());
  if (X509_check_private_key(root.get(), key->get()) != 1) {
    return error("the authority's key does not belong to its certificate");
  }
  return Authority(*id, std::move(root), std::move(*key), *not_after);
}

tl::expected<IssuedSvid, AuthorityError> Authority::issue(const SpiffeId &id, std::time_t now,
                                                          std::time_t lifetime) const {
  const ErrorMark mark;
  if (id.trust_domain() != trust_domain()) {
    return error(
        fmt::format("{} is not of this authority's trust domain {}", id.uri(), trust_domain()));
  }
  if (id.path().empty()) {
    return error(fmt::format("{} names the trust domain; add the workload's path, as {}/web",
                             id.uri(), id.uri()));
  }
  if (lifetime <= 0) return error("an SVID must be valid for at least a second");
  if (lifetime > not_after_ - now) {
    return error(
        fmt::format("the SVID would outlive the authority, which ends at {}; ask for a "
                    "shorter time or make a new authority",
                    time_text(not_after_)));
  }
  const PkeyPtr key = new_key();
  const X509Ptr leaf = key ? make_leaf(id, key.get(), certificate_.get(), key_.get(),
                                       now - kBackdate, now + lifetime)
                           : nullptr;
  if (!leaf) return error("OpenSSL could not make the SVID");
  if (auto good = prove(leaf, certificate_, trust_domain(), now); !good) {
    return tl::unexpected(good.error());
  }
  IssuedSvid issued{to_pem(leaf.get()), to_pem(key.get()), now + lifetime};
  if (issued.chain_pem.empty() || issued.key_pem.empty()) return error("out of memory");
  return issued;
}

std::string Authority::certificate_pem() const { return to_pem(certificate_.get()); }
std::string Authority::key_pem() const { return to_pem(key_.get()); }

std::string make_jwt_key_pem() {
  const ErrorMark mark;
  const PkeyPtr key = new_key();
  return key ? to_pem(key.get()) : std::string();
}

}  // namespace inlay::identity
