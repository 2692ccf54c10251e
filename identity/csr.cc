#include "identity/csr.h"

#include <fmt/format.h>
#include <openssl/x509v3.h>

#include "identity/certificate.h"

namespace inlay::identity {
namespace {

using RequestPtr = std::unique_ptr<X509_REQ, OpensslDelete<X509_REQ_free>>;
using ConstraintsPtr = std::unique_ptr<BASIC_CONSTRAINTS, OpensslDelete<BASIC_CONSTRAINTS_free>>;
using UsagePtr = std::unique_ptr<ASN1_BIT_STRING, OpensslDelete<ASN1_BIT_STRING_free>>;
using NamesPtr = std::unique_ptr<GENERAL_NAMES, OpensslDelete<GENERAL_NAMES_free>>;
using DigestAlgorithmPtr = std::unique_ptr<EVP_MD, OpensslDelete<EVP_MD_free>>;

void free_extensions(STACK_OF(X509_EXTENSION) * extensions) {
  sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
}
using ExtensionsPtr = std::unique_ptr<STACK_OF(X509_EXTENSION), OpensslDelete<free_extensions>>;

}  // namespace

tl::expected<PkeyPtr, std::string> public_key_of_csr(std::string_view der) {
  const ErrorMark mark;
  if (der.size() > kMaxCsrBytes) return tl::unexpected(std::string("the CSR is too long"));
  const auto *at = reinterpret_cast<const unsigned char *>(der.data());
  const unsigned char *const end = at + der.size();
  X509_REQ *raw = X509_REQ_new_ex(library_context(), nullptr);
  if (raw == nullptr) return tl::unexpected(std::string("out of memory"));
  // Frees it when it fails.
  if (d2i_X509_REQ(&raw, &at, static_cast<long>(der.size())) == nullptr) raw = nullptr;
  const RequestPtr request(raw);
  EVP_PKEY *const key = request ? X509_REQ_get0_pubkey(request.get()) : nullptr;
  if (key == nullptr || at != end) {
    return tl::unexpected(std::string("it is no CSR: send PKCS #10 in DER"));
  }
  if (const std::string weakness = key_weakness(key); !weakness.empty()) {
    return tl::unexpected(fmt::format("its key is {}: make one on P-256", weakness));
  }
  if (X509_REQ_verify_ex(request.get(), key, library_context(), nullptr) != 1) {
    return tl::unexpected(std::string("the CSR is not signed with its key"));
  }
  if (EVP_PKEY_up_ref(key) != 1) return tl::unexpected(std::string("out of memory"));
  return PkeyPtr(key);
}

tl::expected<CsrWishes, std::string> wishes_of_csr(std::string_view der) {
  const ErrorMark mark;
  const auto wrong = [] {
    return tl::unexpected(std::string("the extensions that the CSR asks for cannot be read"));
  };
  const auto *at = reinterpret_cast<const unsigned char *>(der.data());
  const RequestPtr request(d2i_X509_REQ(nullptr, &at, static_cast<long>(der.size())));
  if (!request) return wrong();
  CsrWishes wishes;
  unsigned char *name = nullptr;
  const int length = i2d_X509_NAME(X509_REQ_get_subject_name(request.get()), &name);
  if (length <= 0) return wrong();
  wishes.subject.assign(reinterpret_cast<const char *>(name), static_cast<std::size_t>(length));
  OPENSSL_free(name);
  // Of each attribute and extension there may be one: of two, OpenSSL would look at the first.
  int asking = 0;
  for (int i = 0; i < X509_REQ_get_attr_count(request.get()); ++i) {
    const int nid = OBJ_obj2nid(X509_ATTRIBUTE_get0_object(X509_REQ_get_attr(request.get(), i)));
    asking += nid == NID_ext_req || nid == NID_ms_ext_req ? 1 : 0;
  }
  if (asking == 0) return wishes;
  const ExtensionsPtr extensions(X509_REQ_get_extensions(request.get()));
  if (asking > 1 || !extensions) return wrong();
  int problem = -1;  // there is none of that kind
  const auto take = [&](int nid) {
    return X509V3_get_d2i(extensions.get(), nid, &problem, nullptr);
  };
  const NamesPtr names(static_cast<GENERAL_NAMES *>(take(NID_subject_alt_name)));
  if (!names && problem != -1) return wrong();
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME *one = sk_GENERAL_NAME_value(names.get(), i);
    if (one->type != GEN_URI) {
      wishes.other_names = true;
      continue;
    }
    const ASN1_IA5STRING *text = one->d.uniformResourceIdentifier;
    wishes.uris.emplace_back(reinterpret_cast<const char *>(ASN1_STRING_get0_data(text)),
                             static_cast<std::size_t>(ASN1_STRING_length(text)));
  }
  const ConstraintsPtr constraints(static_cast<BASIC_CONSTRAINTS *>(take(NID_basic_constraints)));
  if (!constraints && problem != -1) return wrong();
  const UsagePtr usage(static_cast<ASN1_BIT_STRING *>(take(NID_key_usage)));
  if (!usage && problem != -1) return wrong();
  constexpr int kKeyCertSign = 5, kCrlSign = 6;  // RFC 5280 §4.2.1.3
  wishes.authority = (constraints && constraints->ca != 0) ||
                     (usage && (ASN1_BIT_STRING_get_bit(usage.get(), kKeyCertSign) == 1 ||
                                ASN1_BIT_STRING_get_bit(usage.get(), kCrlSign) == 1));
  return wishes;
}

namespace {

using ExtensionPtr = std::unique_ptr<X509_EXTENSION, OpensslDelete<X509_EXTENSION_free>>;

bool add_extension(X509_REQ *request, ExtensionPtr extension) {
  const ExtensionsPtr list(sk_X509_EXTENSION_new_null());
  if (!extension || !list || sk_X509_EXTENSION_push(list.get(), extension.get()) <= 0) return false;
  extension.release();
  return X509_REQ_add_extensions(request, list.get()) == 1;
}

// `fill` puts in what is more than the key.
template <typename Fill>
std::string make(EVP_PKEY *key, Fill fill) {
  const ErrorMark mark;
  const RequestPtr request(X509_REQ_new_ex(library_context(), nullptr));
  const DigestAlgorithmPtr digest(EVP_MD_fetch(library_context(), "SHA256", nullptr));
  unsigned char *der = nullptr;
  if (!request || !digest || X509_REQ_set_pubkey(request.get(), key) != 1 || !fill(request.get()) ||
      X509_REQ_sign(request.get(), key, digest.get()) <= 0) {
    return {};
  }
  const int length = i2d_X509_REQ(request.get(), &der);
  if (length <= 0) return {};
  std::string bytes(reinterpret_cast<const char *>(der), static_cast<std::size_t>(length));
  OPENSSL_free(der);
  return bytes;
}

}  // namespace

std::string make_csr(EVP_PKEY *key, const std::string &uri) {
  return make(key, [&](X509_REQ *request) {
    // No character of a SPIFFE ID has a meaning in this syntax.
    X509V3_CTX context;
    X509V3_set_ctx(&context, nullptr, nullptr, request, nullptr, 0);
    return uri.empty() ||
           add_extension(request,
                         ExtensionPtr(X509V3_EXT_conf_nid(nullptr, &context, NID_subject_alt_name,
                                                          ("critical,URI:" + uri).c_str())));
  });
}

std::string make_csr_like(EVP_PKEY *key, const X509 *certificate) {
  return make(key, [&](X509_REQ *request) {
    if (X509_REQ_set_subject_name(request, X509_get_subject_name(certificate)) != 1) return false;
    const int at = X509_get_ext_by_NID(certificate, NID_subject_alt_name, -1);
    return at < 0 ||
           add_extension(request, ExtensionPtr(X509_EXTENSION_dup(X509_get_ext(certificate, at))));
  });
}

}  // namespace inlay::identity
