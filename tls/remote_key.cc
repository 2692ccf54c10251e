#include "tls/remote_key.h"

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/params.h>
#include <openssl/provider.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>

// The provider. OpenSSL calls these from C frames: no exception may leave them.

namespace inlay::tls {
namespace {

constexpr char kProviderName[] = "inlay-remote";

// Not in the general model: that may allocate from the host's malloc at a thread's first use.
[[gnu::tls_model("initial-exec")]] constinit thread_local Signatory *t_signatory = nullptr;

using ParamsPtr = std::unique_ptr<OSSL_PARAM, identity::OpensslDelete<OSSL_PARAM_free>>;
using PkeyContextPtr = std::unique_ptr<EVP_PKEY_CTX, identity::OpensslDelete<EVP_PKEY_CTX_free>>;

// A key of this provider: its public half, as a key of the default provider's.
struct RemoteKey {
  const char *type;  // "EC" or "RSA"
  identity::PkeyPtr public_half;
};

identity::PkeyPtr public_key_of(const char *type, OSSL_PARAM *params) noexcept {
  PkeyContextPtr context(EVP_PKEY_CTX_new_from_name(identity::library_context(), type, nullptr));
  EVP_PKEY *key = nullptr;
  if (context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &key, EVP_PKEY_PUBLIC_KEY, params) != 1) {
    return nullptr;
  }
  return identity::PkeyPtr(key);
}

template <const char *Type>
void *new_key(void *) noexcept {
  return new (std::nothrow) RemoteKey{Type, nullptr};
}

void free_key(void *key) noexcept { delete static_cast<RemoteKey *>(key); }

int import_key(void *data, int, const OSSL_PARAM params[]) noexcept {
  auto *key = static_cast<RemoteKey *>(data);
  key->public_half = public_key_of(key->type, const_cast<OSSL_PARAM *>(params));
  return key->public_half != nullptr;
}

int has(const void *data, int) noexcept {
  return static_cast<const RemoteKey *>(data)->public_half != nullptr;
}

int match(const void *one, const void *other, int) noexcept {
  return EVP_PKEY_eq(static_cast<const RemoteKey *>(one)->public_half.get(),
                     static_cast<const RemoteKey *>(other)->public_half.get()) == 1;
}

// The public half only: were the private one "exported" without being there, OpenSSL would sign
// with the default provider, and fail.
int export_key(void *data, int selection, OSSL_CALLBACK *callback, void *argument) noexcept {
  const auto *key = static_cast<const RemoteKey *>(data);
  if ((selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0 || key->public_half == nullptr) return 0;
  OSSL_PARAM *params = nullptr;
  if (EVP_PKEY_todata(key->public_half.get(), EVP_PKEY_PUBLIC_KEY, &params) != 1) return 0;
  const ParamsPtr owned(params);
  return callback(params, argument);
}

int get_params(void *data, OSSL_PARAM params[]) noexcept {
  return EVP_PKEY_get_params(static_cast<RemoteKey *>(data)->public_half.get(), params);
}

const OSSL_PARAM *gettable_params(void *) noexcept {
  static constexpr OSSL_PARAM kParams[] = {
      OSSL_PARAM_int(OSSL_PKEY_PARAM_BITS, nullptr),
      OSSL_PARAM_int(OSSL_PKEY_PARAM_SECURITY_BITS, nullptr),
      OSSL_PARAM_int(OSSL_PKEY_PARAM_MAX_SIZE, nullptr),
      OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, nullptr, 0), OSSL_PARAM_END};
  return kParams;
}

const OSSL_PARAM *key_types(int) noexcept {
  static constexpr OSSL_PARAM kParams[] = {
      OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, nullptr, 0),
      OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, nullptr, 0),
      OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_N, nullptr, 0),
      OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_E, nullptr, 0), OSSL_PARAM_END};
  return kParams;
}

template <const char *Operation>
const char *operation_name(int) noexcept {
  return Operation;
}

constexpr char kEc[] = "EC";
constexpr char kEcdsa[] = "ECDSA";
constexpr char kRsa[] = "RSA";

template <typename Function>
OSSL_DISPATCH entry(int id, Function *function) noexcept {
  return {id, reinterpret_cast<void (*)()>(function)};
}

template <const char *Type, const char *Operation>
const OSSL_DISPATCH *key_management() noexcept {
  static const OSSL_DISPATCH functions[] = {
      entry(OSSL_FUNC_KEYMGMT_NEW, new_key<Type>),
      entry(OSSL_FUNC_KEYMGMT_FREE, free_key),
      entry(OSSL_FUNC_KEYMGMT_IMPORT, import_key),
      entry(OSSL_FUNC_KEYMGMT_IMPORT_TYPES, key_types),
      entry(OSSL_FUNC_KEYMGMT_EXPORT, export_key),
      entry(OSSL_FUNC_KEYMGMT_EXPORT_TYPES, key_types),
      entry(OSSL_FUNC_KEYMGMT_HAS, has),
      entry(OSSL_FUNC_KEYMGMT_MATCH, match),
      entry(OSSL_FUNC_KEYMGMT_GET_PARAMS, get_params),
      entry(OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, gettable_params),
      entry(OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, operation_name<Operation>),
      {0, nullptr}};
  return functions;
}

struct Signing {
  RemoteKey *key = nullptr;
  std::uint16_t scheme = 0;
};

// The schemes a CertificateVerify of TLS 1.3 may have with such a key; RSA means PSS there.
std::uint16_t scheme_of(std::string_view type, const char *digest) noexcept {
  const std::string_view name(digest == nullptr ? "" : digest);
  const bool ec = type == kEc;
  if (name == "SHA256" || name == "SHA2-256") return ec ? 0x0403 : 0x0804;
  if (name == "SHA384" || name == "SHA2-384") return ec ? 0x0503 : 0x0805;
  if (name == "SHA512" || name == "SHA2-512") return ec ? 0 : 0x0806;
  return 0;
}

void *new_signing(void *, const char *) noexcept { return new (std::nothrow) Signing; }
void free_signing(void *signing) noexcept { delete static_cast<Signing *>(signing); }

int begin_signing(void *data, const char *digest, void *key, const OSSL_PARAM[]) noexcept {
  auto *signing = static_cast<Signing *>(data);
  if (key != nullptr) signing->key = static_cast<RemoteKey *>(key);
  if (signing->key == nullptr) return 0;
  signing->scheme = scheme_of(signing->key->type, digest);
  return signing->scheme != 0;
}

// libssl says here that RSA is to be PSS with a salt of the digest's length, as TLS 1.3 wants it.
int set_signing_params(void *, const OSSL_PARAM[]) noexcept { return 1; }

const OSSL_PARAM *settable_signing_params(void *, void *) noexcept {
  static constexpr OSSL_PARAM kParams[] = {
      OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PAD_MODE, nullptr, 0),
      OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PSS_SALTLEN, nullptr, 0), OSSL_PARAM_END};
  return kParams;
}

int sign(void *data, unsigned char *out, std::size_t *length, std::size_t room,
         const unsigned char *input, std::size_t input_length) noexcept {
  const auto *signing = static_cast<const Signing *>(data);
  const int most = EVP_PKEY_get_size(signing->key->public_half.get());
  if (most <= 0) return 0;
  if (out == nullptr) {
    *length = static_cast<std::size_t>(most);
    return 1;
  }
  if (t_signatory == nullptr) return 0;
  try {
    const auto signature = t_signatory->sign(
        {signing->scheme, std::vector<std::uint8_t>(input, input + input_length)});
    if (!signature || signature->empty() || signature->size() > room) return 0;
    std::memcpy(out, signature->data(), signature->size());
    *length = signature->size();
    return 1;
  } catch (...) {
    return 0;
  }
}

const OSSL_DISPATCH *signature() noexcept {
  static const OSSL_DISPATCH functions[] = {
      entry(OSSL_FUNC_SIGNATURE_NEWCTX, new_signing),
      entry(OSSL_FUNC_SIGNATURE_FREECTX, free_signing),
      entry(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, begin_signing),
      entry(OSSL_FUNC_SIGNATURE_DIGEST_SIGN, sign),
      entry(OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS, set_signing_params),
      entry(OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS, settable_signing_params),
      {0, nullptr}};
  return functions;
}

const OSSL_ALGORITHM *query(void *, int operation, int *no_cache) noexcept {
  static const OSSL_ALGORITHM keys[] = {
      {kEc, "provider=inlay-remote", key_management<kEc, kEcdsa>(), nullptr},
      {kRsa, "provider=inlay-remote", key_management<kRsa, kRsa>(), nullptr},
      {nullptr, nullptr, nullptr, nullptr}};
  static const OSSL_ALGORITHM signatures[] = {
      {kEcdsa, "provider=inlay-remote", signature(), nullptr},
      {kRsa, "provider=inlay-remote", signature(), nullptr},
      {nullptr, nullptr, nullptr, nullptr}};
  *no_cache = 0;
  if (operation == OSSL_OP_KEYMGMT) return keys;
  if (operation == OSSL_OP_SIGNATURE) return signatures;
  return nullptr;
}

int start_provider(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *, const OSSL_DISPATCH **out,
                   void **context) noexcept {
  static const OSSL_DISPATCH functions[] = {entry(OSSL_FUNC_PROVIDER_QUERY_OPERATION, query),
                                            {0, nullptr}};
  *out = functions;
  *context = const_cast<OSSL_CORE_HANDLE *>(handle);
  return 1;
}

// A library context of its own: in inlay's one a search for "EC" must find the default provider's.
OSSL_LIB_CTX *remote_context() noexcept {
  static constinit std::atomic<OSSL_LIB_CTX *> context{nullptr};  // null is tried again: no memory
  OSSL_LIB_CTX *known = context.load(std::memory_order_acquire);
  if (known != nullptr) return known;
  identity::library_context();  // OpenSSL is started as inlay wants it
  OSSL_LIB_CTX *made = OSSL_LIB_CTX_new();
  if (made == nullptr || OSSL_PROVIDER_add_builtin(made, kProviderName, start_provider) != 1 ||
      OSSL_PROVIDER_load(made, kProviderName) == nullptr ||
      !context.compare_exchange_strong(known, made, std::memory_order_acq_rel)) {
    OSSL_LIB_CTX_free(made);
    return known;  // another thread's
  }
  return made;
}

}  // namespace

SigningScope::SigningScope(Signatory *signatory) noexcept : before_(t_signatory) {
  t_signatory = signatory;
}
SigningScope::~SigningScope() { t_signatory = before_; }

identity::PkeyPtr make_remote_key(const EVP_PKEY *public_key) noexcept {
  ERR_set_mark();
  identity::PkeyPtr key;
  const char *type = EVP_PKEY_is_a(public_key, kEc)    ? kEc
                     : EVP_PKEY_is_a(public_key, kRsa) ? kRsa
                                                       : nullptr;
  OSSL_PARAM *params = nullptr;
  if (type != nullptr && remote_context() != nullptr &&
      EVP_PKEY_todata(public_key, EVP_PKEY_PUBLIC_KEY, &params) == 1) {
    const ParamsPtr owned(params);
    PkeyContextPtr context(EVP_PKEY_CTX_new_from_name(remote_context(), type, nullptr));
    EVP_PKEY *made = nullptr;
    if (context != nullptr && EVP_PKEY_fromdata_init(context.get()) == 1 &&
        EVP_PKEY_fromdata(context.get(), &made, EVP_PKEY_PUBLIC_KEY, params) == 1) {
      key.reset(made);
    }
  }
  ERR_pop_to_mark();
  return key;
}

bool is_remote_key(const EVP_PKEY *key) noexcept {
  const OSSL_PROVIDER *provider = key == nullptr ? nullptr : EVP_PKEY_get0_provider(key);
  return provider != nullptr && std::strcmp(OSSL_PROVIDER_get0_name(provider), kProviderName) == 0;
}

}  // namespace inlay::tls
