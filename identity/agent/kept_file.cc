#include "identity/agent/kept_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/pem.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "policy/trusted_file.h"

namespace inlay::identity::agent {
namespace {

constexpr std::size_t kMaxFile = std::size_t{1} << 24;

using Failure = tl::unexpected<std::string>;

}  // namespace

tl::expected<FileContent, std::string> read_kept_file(const std::string &path,
                                                      std::span<const uid_t> owners) {
  const auto file = policy::open_trusted(path, owners);
  if (!file) return Failure(fmt::format("cannot use {}: {}", path, file.error()));
  auto content = read_file(file->fd.get(), kMaxFile);
  if (!content) return Failure(fmt::format("cannot read {}: {}", path, content.error()));
  return content;
}

tl::expected<void, std::string> replace_kept_file(const std::string &folder, const char *name,
                                                  std::string_view bytes) {
  const std::string path = folder + "/" + name;
  const std::string fresh = path + ".new";
  const auto bad = [&] {
    const int error = errno;
    ::unlink(fresh.c_str());
    return Failure(fmt::format("cannot write {}: {}", path, std::strerror(error)));
  };
  ::unlink(fresh.c_str());  // of a process that ended in between
  const policy::UniqueFd fd(
      ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd) return bad();
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd.get(), bytes.data(), bytes.size());
    if (written < 0) return bad();
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  if (::fsync(fd.get()) != 0 || ::rename(fresh.c_str(), path.c_str()) != 0) return bad();
  const policy::UniqueFd above(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (above) ::fsync(above.get());
  return {};
}

std::string key_and_chain_pem(const EVP_PKEY *key, std::span<const X509Ptr> chain) {
  // Secure memory BIO: cleansed when freed.
  const BioPtr bio(BIO_new(BIO_s_secmem()));
  if (!bio ||
      PEM_write_bio_PKCS8PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return {};
  }
  for (const X509Ptr &certificate : chain) {
    if (PEM_write_bio_X509(bio.get(), certificate.get()) != 1) return {};
  }
  char *data = nullptr;
  const long length = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(length)};
}

tl::expected<void, std::string> make_kept_folder(const std::string &folder) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(folder).parent_path(), error);
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return Failure(fmt::format("cannot make {}: {}", folder, std::strerror(errno)));
  }
  return {};
}

}  // namespace inlay::identity::agent
