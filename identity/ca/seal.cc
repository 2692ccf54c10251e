#include "identity/ca/seal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "identity/certificate.h"
#include "identity/file.h"
#include "identity/private_key.h"
#include "policy/trusted_file.h"

namespace inlay::identity::ca {
namespace {

constexpr std::size_t kKeyBytes = 32, kNonceBytes = 12, kTagBytes = 16;
// The first byte of what is sealed: the form of the rest.
constexpr char kVersion = 1;

using CipherPtr = std::unique_ptr<EVP_CIPHER, OpensslDelete<EVP_CIPHER_free>>;

// PKCS #8, cleansed when it goes.
struct KeyBytes {
  std::vector<unsigned char> der;
  ~KeyBytes() { OPENSSL_cleanse(der.data(), der.size()); }
};

bool key_bytes(const EVP_PKEY *key, KeyBytes &out) {
  using InfoPtr = std::unique_ptr<PKCS8_PRIV_KEY_INFO, OpensslDelete<PKCS8_PRIV_KEY_INFO_free>>;
  const InfoPtr info(EVP_PKEY2PKCS8(key));
  const int length = info ? i2d_PKCS8_PRIV_KEY_INFO(info.get(), nullptr) : 0;
  if (length <= 0) return false;
  out.der.resize(static_cast<std::size_t>(length));
  unsigned char *at = out.der.data();
  return i2d_PKCS8_PRIV_KEY_INFO(info.get(), &at) == length;
}

const unsigned char *unsigned_bytes(std::string_view text) {
  return reinterpret_cast<const unsigned char *>(text.data());
}

// Under its final name only when it is whole: a server that starts at the same time finds none or
// all of it.
tl::expected<void, std::string> make_file(const std::string &file) {
  const auto failed = [&](const char *what) {
    return tl::unexpected(
        fmt::format("cannot make the seal {}: {}: {}", file, what, strerrordesc_np(errno)));
  };
  std::array<unsigned char, kKeyBytes> key{};
  if (RAND_priv_bytes_ex(library_context(), key.data(), key.size(), 0) != 1) {
    return tl::unexpected(std::string("OpenSSL has no random bytes"));
  }
  std::string temporary = file + ".XXXXXX";
  const policy::UniqueFd fd(mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd) return failed("its folder");
  const bool written =
      ::write(fd.get(), key.data(), key.size()) == kKeyBytes && fsync(fd.get()) == 0;
  OPENSSL_cleanse(key.data(), key.size());
  // link() and not rename(): the first one wins.
  const bool linked = written && (link(temporary.c_str(), file.c_str()) == 0 || errno == EEXIST);
  const int error = errno;
  unlink(temporary.c_str());
  errno = error;
  if (!linked) return failed("writing it");
  return {};
}

}  // namespace

Seal::Seal(std::string file, std::string_view key) : file_(std::move(file)) {
  std::copy_n(key.begin(), key_.size(), key_.begin());
}

Seal::Seal(Seal &&other) noexcept : file_(std::move(other.file_)), key_(other.key_) {
  OPENSSL_cleanse(other.key_.data(), other.key_.size());
}

Seal::~Seal() { OPENSSL_cleanse(key_.data(), key_.size()); }

tl::expected<Seal, std::string> Seal::open(const std::string &file, bool make) {
  if (make && FileStamp::of(file).error == ENOENT) {
    if (auto made = make_file(file); !made) return tl::unexpected(std::move(made.error()));
  }
  auto content = read_file(file, kKeyBytes + 1);
  if (!content) {
    return tl::unexpected(
        fmt::format("cannot read the seal {}: {}; it belongs to the database: take it from where "
                    "that was made, "
                    "or from its backup",
                    file, content.error()));
  }
  if (const auto complaint = key_permission_complaint(content->status); !complaint.empty()) {
    return tl::unexpected(fmt::format("the seal {} {}", file, complaint));
  }
  if (content->bytes.size() != kKeyBytes) {
    return tl::unexpected(
        fmt::format("the seal {} is damaged: it must be 32 bytes; take it from "
                    "the backup",
                    file));
  }
  return Seal(file, content->bytes);
}

tl::expected<std::string, std::string> Seal::close(const EVP_PKEY *key,
                                                   std::string_view what) const {
  const ErrorMark mark;
  KeyBytes plain;
  std::array<unsigned char, kNonceBytes> nonce{};
  const CipherPtr cipher(EVP_CIPHER_fetch(library_context(), "AES-256-GCM", nullptr));
  const CipherContextPtr context(EVP_CIPHER_CTX_new());
  if (!cipher || !context || !key_bytes(key, plain) ||
      RAND_bytes_ex(library_context(), nonce.data(), nonce.size(), 0) != 1) {
    return tl::unexpected(std::string("OpenSSL could not seal a key"));
  }
  std::vector<unsigned char> sealed(plain.der.size());
  std::array<unsigned char, kTagBytes> tag{};
  int length = 0, rest = 0;
  if (EVP_EncryptInit_ex2(context.get(), cipher.get(), key_.data(), nonce.data(), nullptr) != 1 ||
      EVP_EncryptUpdate(context.get(), nullptr, &length, unsigned_bytes(what),
                        static_cast<int>(what.size())) != 1 ||
      EVP_EncryptUpdate(context.get(), sealed.data(), &length, plain.der.data(),
                        static_cast<int>(plain.der.size())) != 1 ||
      EVP_EncryptFinal_ex(context.get(), sealed.data() + length, &rest) != 1 ||
      EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_GET_TAG, kTagBytes, tag.data()) != 1) {
    return tl::unexpected(std::string("OpenSSL could not seal a key"));
  }
  std::string out(1, kVersion);
  out.append(nonce.begin(), nonce.end());
  out.append(sealed.begin(), sealed.end());
  out.append(tag.begin(), tag.end());
  return out;
}

tl::expected<PkeyPtr, std::string> Seal::unseal(std::string_view sealed,
                                                std::string_view what) const {
  const ErrorMark mark;
  const std::string wrong = fmt::format(
      "the seal {} does not open the keys of this database: it is another one's, or the database "
      "is damaged",
      file_);
  if (sealed.size() < 1 + kNonceBytes + kTagBytes || sealed[0] != kVersion) {
    return tl::unexpected(wrong);
  }
  const std::string_view nonce = sealed.substr(1, kNonceBytes);
  const std::string_view body =
      sealed.substr(1 + kNonceBytes, sealed.size() - 1 - kNonceBytes - kTagBytes);
  std::string tag(sealed.substr(sealed.size() - kTagBytes));
  const CipherPtr cipher(EVP_CIPHER_fetch(library_context(), "AES-256-GCM", nullptr));
  const CipherContextPtr context(EVP_CIPHER_CTX_new());
  if (!cipher || !context) return tl::unexpected(std::string("out of memory"));
  KeyBytes plain;
  plain.der.resize(body.size());
  int length = 0, rest = 0;
  if (EVP_DecryptInit_ex2(context.get(), cipher.get(), key_.data(), unsigned_bytes(nonce),
                          nullptr) != 1 ||
      EVP_DecryptUpdate(context.get(), nullptr, &length, unsigned_bytes(what),
                        static_cast<int>(what.size())) != 1 ||
      EVP_DecryptUpdate(context.get(), plain.der.data(), &length, unsigned_bytes(body),
                        static_cast<int>(body.size())) != 1 ||
      EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_SET_TAG, kTagBytes, tag.data()) != 1 ||
      EVP_DecryptFinal_ex(context.get(), plain.der.data() + length, &rest) != 1) {
    return tl::unexpected(wrong);
  }
  return private_key_from_der({reinterpret_cast<const char *>(plain.der.data()), plain.der.size()});
}

}  // namespace inlay::identity::ca
