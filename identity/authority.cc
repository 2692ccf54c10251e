#include "identity/authority.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <algorithm>
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

bool sign_certificate(X509 *certificate, EVP_PKEY *key) {
  const DigestAlgorithmPtr digest(EVP_MD_fetch(library_context(), "SHA256", nullptr));
  return digest && X509_sign(certificate, key, digest.get()) > 0;
}

// What was just made has OpenSSL's caches of an unfinished certificate: read it afresh.
X509Ptr reread(const X509 *certificate) {
  const std::string der = certificate_der(certificate);
  return certificate_from_der({reinterpret_cast<const unsigned char *>(der.data()), der.size()});
}

// What every authority's certificate has. `issuer` is the certificate itself for a root.
bool make_authority(X509 *certificate, X509 *issuer, std::string_view trust_domain,
                    const std::string &name, EVP_PKEY *key, int path_length, std::time_t not_before,
                    std::time_t not_after) {
  return X509_set_version(certificate, X509_VERSION_3) == 1 && set_random_serial(certificate) &&
         add_name(certificate, "O", trust_domain.substr(0, kMaxNameLength)) &&
         add_name(certificate, "CN", std::string_view(name).substr(0, kMaxNameLength)) &&
         X509_set_issuer_name(certificate, X509_get_subject_name(issuer)) == 1 &&
         set_validity(certificate, not_before, not_after) &&
         X509_set_pubkey(certificate, key) == 1 &&
         add_extension(certificate, issuer, NID_basic_constraints,
                       fmt::format("critical,CA:TRUE,pathlen:{}", path_length)) &&
         add_extension(certificate, issuer, NID_key_usage, "critical,keyCertSign,cRLSign") &&
         add_extension(certificate, issuer, NID_subject_key_identifier, "hash") &&
         (issuer == certificate ||
          add_extension(certificate, issuer, NID_authority_key_identifier, "keyid:always")) &&
         add_extension(certificate, issuer, NID_subject_alt_name,
                       "URI:spiffe://" + std::string(trust_domain));
}

X509Ptr make_root(std::string_view trust_domain, EVP_PKEY *key, std::time_t now,
                  const RootSettings &settings) {
  X509Ptr root(X509_new_ex(library_context(), nullptr));
  // The names of two authorities may be equal: the key identifiers tell them apart.
  const bool made =
      root &&
      make_authority(root.get(), root.get(), trust_domain, settings.name, key, settings.path_length,
                     now - kBackdate, now + settings.lifetime) &&
      sign_certificate(root.get(), key);
  return made ? reread(root.get()) : nullptr;
}

bool is_address(const std::string &host) {
  std::array<unsigned char, 16> bytes;
  return ::inet_pton(AF_INET, host.c_str(), bytes.data()) == 1 ||
         ::inet_pton(AF_INET6, host.c_str(), bytes.data()) == 1;
}

X509Ptr new_leaf(const SpiffeId &id, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key,
                 std::time_t not_before, std::time_t not_after,
                 std::span<const std::string> hosts) {
  std::string names = "critical,URI:" + id.uri();
  for (const std::string &host : hosts) names += (is_address(host) ? ",IP:" : ",DNS:") + host;
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
      add_extension(certificate, issuer, NID_subject_alt_name, names) &&
      sign_certificate(certificate, issuer_key);
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

X509Ptr share(const X509Ptr &certificate) {
  return X509_up_ref(certificate.get()) == 1 ? X509Ptr(certificate.get()) : nullptr;
}

// Does the leaf pass what every peer will hold it to? The digest is that of the root it rests on.
tl::expected<std::array<std::uint8_t, 32>, AuthorityError> prove(
    const X509Ptr &leaf, const X509Ptr &issuer, std::span<const X509Ptr> above,
    std::span<const X509Ptr> anchors, std::string_view trust_domain, std::time_t now) {
  const X509StackPtr chain(sk_X509_new_null());
  const auto push = [&](const X509Ptr &certificate) {
    X509Ptr copy = share(certificate);
    return chain && copy && sk_X509_push(chain.get(), copy.get()) > 0 && copy.release() != nullptr;
  };
  bool pushed = push(leaf) && push(issuer);
  for (const X509Ptr &certificate : above) pushed = pushed && push(certificate);
  BundleSet bundles;
  Bundle &bundle = bundles[std::string(trust_domain)];
  for (const X509Ptr &anchor : anchors) bundle.authorities.push_back(share(anchor));
  if (!pushed || std::find(bundle.authorities.begin(), bundle.authorities.end(), nullptr) !=
                     bundle.authorities.end()) {
    return error("out of memory");
  }
  PathRecord record;
  const auto id = verify_x509_svid(chain.get(), bundles, now, &record);
  if (id) return record.authority;
  return error(fmt::format("the authority issues SVIDs that peers would refuse: {}: {}",
                           sentence(id.error().error), id.error().detail));
}

}  // namespace

Authority::Authority(SpiffeId id, X509Ptr certificate, PkeyPtr key, std::time_t not_after)
    : id_(std::move(id)),
      certificate_(std::move(certificate)),
      key_(std::move(key)),
      not_after_(not_after) {
  if (X509Ptr own = share(certificate_)) anchors_.push_back(std::move(own));
}

tl::expected<Authority, AuthorityError> Authority::create(std::string_view trust_domain,
                                                          std::time_t now,
                                                          const RootSettings &settings) {
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
  PkeyPtr key = make_authority_key();
  X509Ptr root = key ? make_root(trust_domain, key.get(), now, settings) : nullptr;
  if (!root) return error("OpenSSL could not make the authority");
  return Authority(*id, std::move(root), std::move(key), now + settings.lifetime);
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

tl::expected<Authority, AuthorityError> Authority::assemble(std::string_view trust_domain,
                                                            std::vector<X509Ptr> chain, PkeyPtr key,
                                                            std::vector<X509Ptr> anchors) {
  const ErrorMark mark;
  const auto id = SpiffeId::parse("spiffe://" + std::string(trust_domain));
  if (!id || !id->path().empty() || chain.empty() || !key) {
    return error("the authority has no trust domain, certificate or key");
  }
  const auto not_after = to_time(X509_get0_notAfter(chain.front().get()));
  if (!not_after) return error("the authority's dates are malformed");
  if (X509_check_private_key(chain.front().get(), key.get()) != 1 || !halves_match(key.get())) {
    return error("the authority's key does not belong to its certificate");
  }
  if (X509_check_ca(chain.front().get()) != 1) {
    return error(
        fmt::format("{} is no authority's certificate (cA)", subject_text(chain.front().get())));
  }
  Authority made(*id, std::move(chain.front()), std::move(key), *not_after);
  chain.erase(chain.begin());
  made.above_ = std::move(chain);
  if (!anchors.empty()) made.anchors_ = std::move(anchors);
  return made;
}

tl::expected<Authority, AuthorityError> Authority::create_intermediate(
    std::time_t now, std::time_t lifetime, const std::string &name) const {
  const ErrorMark mark;
  if (X509_get_pathlen(certificate_.get()) == 0) {
    return error("the root may sign leaves only (pathLen 0): it cannot have an intermediate");
  }
  if (lifetime <= 0 || lifetime > not_after_ - now) {
    return error(fmt::format("the intermediate would outlive its root, which ends at {}",
                             time_text(not_after_)));
  }
  PkeyPtr key = make_authority_key();
  X509Ptr made(X509_new_ex(library_context(), nullptr));
  if (!key || !made ||
      !make_authority(made.get(), certificate_.get(), trust_domain(), name, key.get(), 0,
                      now - kBackdate, now + lifetime) ||
      !sign_certificate(made.get(), key_.get())) {
    return error("OpenSSL could not make the intermediate");
  }
  X509Ptr certificate = reread(made.get());
  X509Ptr anchor = share(certificate_);
  if (!certificate || !anchor) return error("out of memory");
  Authority intermediate(id_, std::move(certificate), std::move(key), now + lifetime);
  intermediate.anchors_.clear();
  intermediate.anchors_.push_back(std::move(anchor));
  return intermediate;
}

tl::expected<X509Ptr, AuthorityError> Authority::make_leaf(
    const SpiffeId &id, EVP_PKEY *key, std::time_t now, std::time_t lifetime,
    std::span<const std::string> hosts, std::array<std::uint8_t, 32> *root) const {
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
  X509Ptr leaf =
      new_leaf(id, key, certificate_.get(), key_.get(), now - kBackdate, now + lifetime, hosts);
  if (!leaf) return error("OpenSSL could not make the SVID");
  auto proved = prove(leaf, certificate_, above_, anchors_, trust_domain(), now);
  if (!proved) return tl::unexpected(proved.error());
  *root = *proved;
  return leaf;
}

tl::expected<IssuedSvid, AuthorityError> Authority::issue(const SpiffeId &id, std::time_t now,
                                                          std::time_t lifetime) const {
  const ErrorMark mark;
  const PkeyPtr key = make_authority_key();
  if (!key) return error("OpenSSL could not make the SVID");
  std::array<std::uint8_t, 32> root{};
  const auto leaf = make_leaf(id, key.get(), now, lifetime, {}, &root);
  if (!leaf) return tl::unexpected(leaf.error());
  IssuedSvid issued{to_pem(leaf->get()), to_pem(key.get()), now + lifetime};
  if (issued.chain_pem.empty() || issued.key_pem.empty()) return error("out of memory");
  return issued;
}

tl::expected<SignedSvid, AuthorityError> Authority::sign(const SpiffeId &id, EVP_PKEY *key,
                                                         std::time_t now, std::time_t lifetime,
                                                         std::span<const std::string> hosts) const {
  const ErrorMark mark;
  if (const std::string weakness = key_weakness(key); !weakness.empty()) {
    return error(fmt::format("the key is {}: make one on P-256", weakness));
  }
  SignedSvid made;
  const auto leaf = make_leaf(id, key, now, lifetime, hosts, &made.root);
  if (!leaf) return tl::unexpected(leaf.error());
  made.chain.push_back(certificate_der(leaf->get()));
  for (std::string &der : between()) made.chain.push_back(std::move(der));
  made.serial = serial_text(leaf->get());
  made.not_after = now + lifetime;
  return made;
}

const X509 *Authority::root() const {
  const ErrorMark mark;
  X509 *const last = above_.empty() ? certificate_.get() : above_.back().get();
  const auto found = std::find_if(anchors_.begin(), anchors_.end(), [&](const X509Ptr &anchor) {
    return X509_verify(last, X509_get0_pubkey(anchor.get())) == 1;
  });
  return found == anchors_.end() ? nullptr : found->get();
}

std::vector<std::string> Authority::between() const {
  std::vector<std::string> out;
  if (X509_self_signed(certificate_.get(), 0) != 1)
    out.push_back(certificate_der(certificate_.get()));
  for (const X509Ptr &certificate : above_) out.push_back(certificate_der(certificate.get()));
  return out;
}

std::string Authority::certificate_pem() const { return to_pem(certificate_.get()); }
std::string Authority::key_pem() const { return to_pem(key_.get()); }

PkeyPtr make_authority_key() {
  return PkeyPtr(EVP_PKEY_Q_keygen(library_context(), nullptr, "EC", "P-256"));
}

std::string make_jwt_key_pem() {
  const ErrorMark mark;
  const PkeyPtr key = make_authority_key();
  return key ? to_pem(key.get()) : std::string();
}

}  // namespace inlay::identity
