#include "identity/agent/node_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/pem.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "identity/file.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {
namespace {

constexpr std::size_t kMaxFile = std::size_t{1} << 24;
constexpr const char *kNodeFile = "node.pem";
constexpr const char *kAuthorityFile = "authority.json";
constexpr const char *kGrantedFile = "granted.pb";

using Failure = tl::unexpected<std::string>;

std::string in(const std::string &folder, const char *name) { return folder + "/" + name; }

tl::expected<FileContent, std::string> read(const std::string &path,
                                            std::span<const uid_t> owners) {
  const auto file = policy::open_trusted(path, owners);
  if (!file) return Failure(fmt::format("cannot use {}: {}", path, file.error()));
  auto content = read_file(file->fd.get(), kMaxFile);
  if (!content) return Failure(fmt::format("cannot read {}: {}", path, content.error()));
  return content;
}

// So that after a crash there is the old file or the new one, whole.
tl::expected<void, std::string> replace(const std::string &folder, const char *name,
                                        std::string_view bytes) {
  const std::string path = in(folder, name);
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

std::string memory_text(BIO *bio) {
  char *data = nullptr;
  const long length = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<std::size_t>(length));
}

std::string to_pem(const X509Svid &svid) {
  const BioPtr bio(BIO_new(BIO_s_secmem()));
  if (!bio || PEM_write_bio_PKCS8PrivateKey(bio.get(), svid.key.get(), nullptr, nullptr, 0, nullptr,
                                            nullptr) != 1) {
    return "";
  }
  for (const X509Ptr &certificate : svid.chain) {
    if (PEM_write_bio_X509(bio.get(), certificate.get()) != 1) return "";
  }
  return memory_text(bio.get());
}

}  // namespace

std::string pin_text(const rpc::Pin &pin) {
  std::string text;
  for (const std::uint8_t byte : pin) text += fmt::format("{:02x}", byte);
  return text;
}

tl::expected<rpc::Pin, std::string> parse_pin(std::string_view text) {
  rpc::Pin pin{};
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  if (text.size() != 2 * pin.size()) return Failure("a pin has 64 hexadecimal digits");
  for (std::size_t i = 0; i < pin.size(); ++i) {
    const int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
    if (high < 0 || low < 0) return Failure("a pin has 64 hexadecimal digits");
    pin[i] = static_cast<std::uint8_t>(high << 4 | low);
  }
  return pin;
}

tl::expected<Node, std::string> load_node(const std::string &folder,
                                          std::span<const uid_t> owners) {
  const std::string again = "; enrol this machine with inlay enroll";
  const auto document = read(in(folder, kAuthorityFile), owners);
  if (!document) return Failure(document.error() + again);
  const auto json = nlohmann::json::parse(document->bytes, nullptr, false);
  const auto text = [&](const char *key) {
    const auto found = json.is_object() ? json.find(key) : json.end();
    return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  const auto pin = parse_pin(text("pin"));
  auto bundle = parse_trust_domain_bundle(text("bundle"));
  if (text("authority").empty() || !pin || !bundle) {
    return Failure(in(folder, kAuthorityFile) + " is damaged" + again);
  }
  const std::string path = in(folder, kNodeFile);
  const auto identity = read(path, owners);
  if (!identity) return Failure(identity.error() + again);
  if (const auto complaint = key_permission_complaint(identity->status); !complaint.empty()) {
    return Failure(path + " " + complaint);
  }
  auto svid = parse_svid(identity->bytes, identity->bytes);
  if (!svid) return Failure(path + " is damaged: " + svid.error().message + again);
  return Node{text("authority"), *pin, std::move(*bundle), std::move(*svid)};
}

tl::expected<void, std::string> save_node(const std::string &folder, const Node &node) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(folder).parent_path(), error);
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return Failure(fmt::format("cannot make {}: {}", folder, std::strerror(errno)));
  }
  const nlohmann::ordered_json json = {{"authority", node.authority},
                                       {"pin", pin_text(node.pin)},
                                       {"bundle", bundle_document(node.bundle)}};
  std::string identity = to_pem(node.svid);
  if (identity.empty()) return Failure("out of memory");
  auto written = replace(folder, kNodeFile, identity);
  OPENSSL_cleanse(identity.data(), identity.size());
  if (written) written = replace(folder, kAuthorityFile, json.dump(2) + "\n");
  return written;
}

std::string load_granted(const std::string &folder, std::span<const uid_t> owners) {
  auto content = read(in(folder, kGrantedFile), owners);
  return content ? std::move(content->bytes) : std::string();
}

tl::expected<void, std::string> save_granted(const std::string &folder, std::string_view bytes) {
  return replace(folder, kGrantedFile, bytes);
}

}  // namespace inlay::identity::agent
