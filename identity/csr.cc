#include "identity/csr.h"

#include <fmt/format.h>

#include "identity/certificate.h"

namespace inlay::identity {
namespace {

using RequestPtr = std::unique_ptr<X509_REQ, OpensslDelete<X509_REQ_free>>;
using DigestAlgorithmPtr = std::unique_ptr<EVP_MD, OpensslDelete<EVP_MD_free>>;

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

std::string make_csr(EVP_PKEY *key) {
  const ErrorMark mark;
  const RequestPtr request(X509_REQ_new_ex(library_context(), nullptr));
  const DigestAlgorithmPtr digest(EVP_MD_fetch(library_context(), "SHA256", nullptr));
  unsigned char *der = nullptr;
  if (!request || !digest || X509_REQ_set_pubkey(request.get(), key) != 1 ||
      X509_REQ_sign(request.get(), key, digest.get()) <= 0) {
    return {};
  }
  const int length = i2d_X509_REQ(request.get(), &der);
  if (length <= 0) return {};
  std::string bytes(reinterpret_cast<const char *>(der), static_cast<std::size_t>(length));
  OPENSSL_free(der);
  return bytes;
}

}  // namespace inlay::identity
