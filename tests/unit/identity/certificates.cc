#include "certificates.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <stdexcept>

namespace inlay::testing {
namespace {

using namespace inlay::identity;

[[noreturn]] void fail(const char *what) {
  char text[256];
  ERR_error_string_n(ERR_peek_last_error(), text, sizeof text);
  throw std::runtime_error(std::string("test certificate: ") + what + ": " + text);
}

void check(bool good, const char *what) {
  if (!good) fail(what);
}

using ExtensionPtr = std::unique_ptr<X509_EXTENSION, OpensslDelete<X509_EXTENSION_free>>;
using OctetsPtr = std::unique_ptr<ASN1_OCTET_STRING, OpensslDelete<ASN1_OCTET_STRING_free>>;
using ObjectPtr = std::unique_ptr<ASN1_OBJECT, OpensslDelete<ASN1_OBJECT_free>>;
using NamesPtr = std::unique_ptr<GENERAL_NAMES, OpensslDelete<GENERAL_NAMES_free>>;

// What a kind of certificate has unless a knob says otherwise.
struct Defaults {
  std::string subject;
  std::string basic_constraints;
  std::string key_usage;
  std::string extended_key_usage;
};

void add_extension(X509 *certificate, X509 *issuer, int nid, const std::string &value) {
  if (value.empty()) return;
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  check(extension && X509_add_ext(certificate, extension.get(), -1) == 1, value.c_str());
}

void add_raw_extension(X509 *certificate, const char *oid, bool critical, std::size_t length) {
  const std::string filler(length, 'x');
  const OctetsPtr data(ASN1_OCTET_STRING_new());
  check(data && ASN1_OCTET_STRING_set(data.get(),
                                      reinterpret_cast<const unsigned char *>(filler.data()),
                                      static_cast<int>(filler.size())) == 1,
        "octets");
  const ObjectPtr object(OBJ_txt2obj(oid, 1));
  const ExtensionPtr extension(
      X509_EXTENSION_create_by_OBJ(nullptr, object.get(), critical ? 1 : 0, data.get()));
  check(extension && X509_add_ext(certificate, extension.get(), -1) == 1, oid);
}

void add_name(GENERAL_NAMES *names, int type, const std::string &value) {
  GENERAL_NAME *name = GENERAL_NAME_new();
  ASN1_IA5STRING *text = ASN1_IA5STRING_new();
  check(name != nullptr && text != nullptr, "general name");
  check(ASN1_STRING_set(text, value.data(), static_cast<int>(value.size())) == 1, "name text");
  GENERAL_NAME_set0_value(name, type, text);
  check(sk_GENERAL_NAME_push(names, name) > 0, "general names");
}

void add_alternative_names(X509 *certificate, const std::vector<std::string> &uris,
                           const std::vector<std::string> &dns_names, bool critical) {
  if (uris.empty() && dns_names.empty()) return;
  const NamesPtr names(GENERAL_NAMES_new());
  for (const std::string &uri : uris) add_name(names.get(), GEN_URI, uri);
  for (const std::string &dns_name : dns_names) add_name(names.get(), GEN_DNS, dns_name);
  check(X509_add1_ext_i2d(certificate, NID_subject_alt_name, names.get(), critical ? 1 : 0, 0) == 1,
        "subjectAltName");
}

X509Ptr reparsed(const X509 *certificate) {
  unsigned char *der = nullptr;
  const int length = i2d_X509(certificate, &der);
  check(length > 0, "encode");
  X509 *copy = X509_new_ex(library_context(), nullptr);
  const unsigned char *position = der;
  X509 *parsed = d2i_X509(&copy, &position, length);
  OPENSSL_free(der);
  check(parsed != nullptr, "decode");
  return X509Ptr(parsed);
}

void corrupt_signature(X509 *certificate) {
  const ASN1_BIT_STRING *signature = nullptr;
  X509_get0_signature(&signature, nullptr, certificate);
  signature->data[signature->length - 1] ^= 1;
}

// `issuer` null: self-signed.
Identity make(const Identity *issuer, std::string_view id, const Knobs &knobs,
              const Defaults &defaults) {
  PkeyPtr key = make_key(knobs.key);
  const X509Ptr certificate(X509_new_ex(library_context(), nullptr));
  check(certificate != nullptr, "new");
  X509 *const subject = certificate.get();
  X509 *const signer = issuer != nullptr ? issuer->certificate.get() : subject;
  check(X509_set_version(subject, knobs.version - 1) == 1, "version");

  unsigned char serial[16];
  check(RAND_bytes_ex(library_context(), serial, sizeof serial, 0) == 1, "serial");
  serial[0] = static_cast<unsigned char>((serial[0] & 0x7f) | 0x40);
  const std::unique_ptr<BIGNUM, OpensslDelete<BN_free>> number(
      BN_bin2bn(serial, sizeof serial, nullptr));
  check(BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(subject)) != nullptr, "serial");

  check(ASN1_TIME_set(X509_getm_notBefore(subject), knobs.not_before) != nullptr, "notBefore");
  check(ASN1_TIME_set(X509_getm_notAfter(subject), knobs.not_after) != nullptr, "notAfter");

  const std::string common_name = knobs.subject.value_or(defaults.subject);
  if (!common_name.empty()) {
    check(X509_NAME_add_entry_by_txt(X509_get_subject_name(subject), "CN", MBSTRING_UTF8,
                                     reinterpret_cast<const unsigned char *>(common_name.data()),
                                     static_cast<int>(common_name.size()), -1, 0) == 1,
          "subject");
  }
  check(X509_set_issuer_name(subject, X509_get_subject_name(signer)) == 1, "issuer");
  check(X509_set_pubkey(subject, key.get()) == 1, "public key");

  add_extension(subject, signer, NID_basic_constraints,
                knobs.basic_constraints.value_or(defaults.basic_constraints));
  add_extension(subject, signer, NID_key_usage, knobs.key_usage.value_or(defaults.key_usage));
  add_extension(subject, signer, NID_ext_key_usage,
                knobs.extended_key_usage.value_or(defaults.extended_key_usage));
  add_extension(subject, signer, NID_name_constraints, knobs.name_constraints);
  add_alternative_names(subject, knobs.uris.value_or(std::vector<std::string>{std::string(id)}),
                        knobs.dns_names, knobs.san_critical.value_or(common_name.empty()));
  if (knobs.key_identifiers) {
    add_extension(subject, signer, NID_subject_key_identifier, "hash");
    if (issuer != nullptr) {
      add_extension(subject, signer, NID_authority_key_identifier, "keyid");
    }
  }
  if (knobs.unknown_critical_extension) {
    add_raw_extension(subject, "1.3.6.1.4.1.55555.1", true, 4);
  }
  if (knobs.padding > 0) add_raw_extension(subject, "1.3.6.1.4.1.55555.2", false, knobs.padding);

  EVP_PKEY *const signing_key = issuer != nullptr ? issuer->key.get() : key.get();
  const bool own_digest = EVP_PKEY_is_a(signing_key, "ED25519") == 1;
  const std::unique_ptr<EVP_MD, OpensslDelete<EVP_MD_free>> digest(
      EVP_MD_fetch(library_context(), knobs.digest.c_str(), nullptr));
  check(X509_sign(subject, signing_key, own_digest ? nullptr : digest.get()) > 0, "sign");
  if (knobs.corrupt_signature) corrupt_signature(subject);

  Identity made{reparsed(subject), std::move(key), {}};
  // The chain up to the issuer's root; the root itself is never sent.
  if (issuer != nullptr && X509_self_signed(signer, 0) != 1) {
    made.intermediates.push_back(share(signer));
    for (const X509Ptr &further : issuer->intermediates) {
      made.intermediates.push_back(share(further.get()));
    }
  }
  return made;
}

Defaults authority_defaults(std::string_view trust_domain, const char *kind) {
  return {std::string(trust_domain) + " " + kind, "critical,CA:TRUE",
          "critical,keyCertSign,cRLSign", ""};
}

Defaults leaf_defaults() {
  return {"", "critical,CA:FALSE", "critical,digitalSignature", "serverAuth,clientAuth"};
}

PkeyPtr make_rsa(const char *type, unsigned bits) {
  const std::unique_ptr<EVP_PKEY_CTX, OpensslDelete<EVP_PKEY_CTX_free>> context(
      EVP_PKEY_CTX_new_from_name(library_context(), type, nullptr));
  EVP_PKEY *key = nullptr;
  check(context && EVP_PKEY_keygen_init(context.get()) == 1 &&
            EVP_PKEY_CTX_set_rsa_keygen_bits(context.get(), static_cast<int>(bits)) == 1 &&
            EVP_PKEY_generate(context.get(), &key) == 1,
        type);
  return PkeyPtr(key);
}

PkeyPtr make_ec(const char *curve) {
  return PkeyPtr(EVP_PKEY_Q_keygen(library_context(), nullptr, "EC", curve));
}

std::string text_of(BIO *bio) {
  char *data = nullptr;
  const long length = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<std::size_t>(length));
}

}  // namespace

std::time_t now() {
  static const std::time_t value = std::time(nullptr);
  return value;
}

PkeyPtr make_key(KeyKind kind) {
  PkeyPtr key;
  switch (kind) {
    case KeyKind::p256:
      key = make_ec("P-256");
      break;
    case KeyKind::p384:
      key = make_ec("P-384");
      break;
    case KeyKind::p521:
      key = make_ec("P-521");
      break;
    case KeyKind::p224:
      key = make_ec("P-224");
      break;
    case KeyKind::secp256k1:
      key = make_ec("secp256k1");
      break;
    case KeyKind::rsa2048:
      key = make_rsa("RSA", 2048);
      break;
    case KeyKind::rsa1024:
      key = make_rsa("RSA", 1024);
      break;
    case KeyKind::rsa_pss2048:
      key = make_rsa("RSA-PSS", 2048);
      break;
    case KeyKind::ed25519:
      key.reset(EVP_PKEY_Q_keygen(library_context(), nullptr, "ED25519"));
      break;
  }
  check(key != nullptr, "key");
  return key;
}

X509Ptr share(const X509 *certificate) {
  X509 *const shared = const_cast<X509 *>(certificate);  // only its reference count changes
  check(X509_up_ref(shared) == 1, "reference");
  return X509Ptr(shared);
}

Identity make_authority(std::string_view trust_domain, const Knobs &knobs) {
  const Knobs defaults;
  Knobs authority = knobs;
  if (authority.not_after == defaults.not_after) authority.not_after = now() + 86400;
  if (authority.not_before == defaults.not_before) authority.not_before = now() - 3600;
  return make(nullptr, "spiffe://" + std::string(trust_domain), authority,
              authority_defaults(trust_domain, "root"));
}

Identity make_intermediate(const Identity &issuer, std::string_view trust_domain,
                           const Knobs &knobs) {
  return make(&issuer, "spiffe://" + std::string(trust_domain), knobs,
              authority_defaults(trust_domain, "intermediate"));
}

Identity issue(const Identity &issuer, std::string_view spiffe_id, const Knobs &knobs) {
  return make(&issuer, spiffe_id, knobs, leaf_defaults());
}

Identity make_self_signed(std::string_view spiffe_id, const Knobs &knobs) {
  return make(nullptr, spiffe_id, knobs, leaf_defaults());
}

std::string to_pem(const X509 *certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  check(bio && PEM_write_bio_X509(bio.get(), certificate) == 1, "PEM");
  return text_of(bio.get());
}

std::string to_pem(const EVP_PKEY *key) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  check(bio && PEM_write_bio_PKCS8PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr,
                                             nullptr) == 1,
        "PEM");
  return text_of(bio.get());
}

std::string chain_pem(const Identity &identity) {
  std::string pem = to_pem(identity.certificate.get());
  for (const X509Ptr &intermediate : identity.intermediates) pem += to_pem(intermediate.get());
  return pem;
}

std::string to_base64_der(const X509 *certificate) {
  unsigned char *der = nullptr;
  const int length = i2d_X509(certificate, &der);
  check(length > 0, "encode");
  std::string text(static_cast<std::size_t>(length + 2) / 3 * 4 + 1, '\0');
  const int written = EVP_EncodeBlock(reinterpret_cast<unsigned char *>(text.data()), der, length);
  OPENSSL_free(der);
  text.resize(static_cast<std::size_t>(written));
  return text;
}

X509StackPtr stack_of(std::initializer_list<const X509 *> certificates) {
  X509StackPtr stack(sk_X509_new_null());
  for (const X509 *certificate : certificates) {
    check(sk_X509_push(stack.get(), share(certificate).release()) > 0, "stack");
  }
  return stack;
}

X509StackPtr stack_of(const Identity &identity) {
  X509StackPtr stack = stack_of({identity.certificate.get()});
  for (const X509Ptr &intermediate : identity.intermediates) {
    check(sk_X509_push(stack.get(), share(intermediate.get()).release()) > 0, "stack");
  }
  return stack;
}

Bundle bundle_of(std::initializer_list<const X509 *> authorities) {
  Bundle bundle;
  for (const X509 *authority : authorities) bundle.authorities.push_back(share(authority));
  return bundle;
}

BundleSet bundles_of(std::initializer_list<TrustedAuthority> authorities) {
  BundleSet bundles;
  for (const TrustedAuthority &authority : authorities) {
    bundles[authority.trust_domain].authorities.push_back(share(authority.certificate));
  }
  return bundles;
}

std::shared_ptr<const Material> make_material(const Identity &identity, std::string_view spiffe_id,
                                              BundleSet bundles) {
  const auto id = SpiffeId::parse(spiffe_id);
  if (!id) throw std::runtime_error("test material: " + std::string(sentence(id.error())));
  X509Svid svid{*id, {}, nullptr, now() - 60, now() + 3600};
  svid.chain.push_back(share(identity.certificate.get()));
  for (const X509Ptr &intermediate : identity.intermediates) {
    svid.chain.push_back(share(intermediate.get()));
  }
  check(EVP_PKEY_up_ref(identity.key.get()) == 1, "reference");
  svid.key.reset(identity.key.get());
  return std::make_shared<const Material>(Material{std::move(svid), std::move(bundles), 1});
}

}  // namespace inlay::testing
