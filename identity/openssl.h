// RAII for the OpenSSL objects inlay uses, and inlay's own library context.
#pragma once

#include <memory>

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

namespace inlay::identity {

template <auto Free>
struct OpensslDelete {
  template <typename T>
  void operator()(T *object) const noexcept { Free(object); }
};

inline void free_x509_stack(STACK_OF(X509) *stack) { sk_X509_pop_free(stack, X509_free); }

using X509Ptr = std::unique_ptr<X509, OpensslDelete<X509_free>>;
using X509StackPtr = std::unique_ptr<STACK_OF(X509), OpensslDelete<free_x509_stack>>;
using X509CrlPtr = std::unique_ptr<X509_CRL, OpensslDelete<X509_CRL_free>>;
using PkeyPtr = std::unique_ptr<EVP_PKEY, OpensslDelete<EVP_PKEY_free>>;
using BioPtr = std::unique_ptr<BIO, OpensslDelete<BIO_free_all>>;
using CipherContextPtr = std::unique_ptr<EVP_CIPHER_CTX, OpensslDelete<EVP_CIPHER_CTX_free>>;
using SslPtr = std::unique_ptr<SSL, OpensslDelete<SSL_free>>;
using SslContextPtr = std::unique_ptr<SSL_CTX, OpensslDelete<SSL_CTX_free>>;

// The library context all of inlay's OpenSSL use goes through. Created on first call with
// OPENSSL_INIT_NO_LOAD_CONFIG and OPENSSL_INIT_NO_ATEXIT, never freed. Thread-safe; not
// async-signal-safe. Null only when OpenSSL cannot allocate it.
OSSL_LIB_CTX *library_context() noexcept;

}  // namespace inlay::identity
