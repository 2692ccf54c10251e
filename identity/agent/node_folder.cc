#include "identity/agent/node_folder.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "identity/agent/kept_file.h"
#include "identity/file.h"
#include "identity/private_key.h"

namespace inlay::identity::agent {
namespace {

constexpr const char *kNodeFile = "node.pem";
constexpr const char *kAuthorityFile = "authority.json";
constexpr const char *kGrantedFile = "granted.pb";
constexpr const char *kEnrollingFile = "enrolling.pem";

using Failure = tl::unexpected<std::string>;

std::string in(const std::string &folder, const char *name) { return folder + "/" + name; }

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
  const auto document = read_kept_file(in(folder, kAuthorityFile), owners);
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
  const auto identity = read_kept_file(path, owners);
  if (!identity) return Failure(identity.error() + again);
  if (const auto complaint = key_permission_complaint(identity->status); !complaint.empty()) {
    return Failure(path + " " + complaint);
  }
  auto svid = parse_svid(identity->bytes, identity->bytes);
  if (!svid) return Failure(path + " is damaged: " + svid.error().message + again);
  return Node{text("authority"), *pin, std::move(*bundle), std::move(*svid)};
}

tl::expected<void, std::string> save_node(const std::string &folder, const Node &node) {
  if (auto made = make_kept_folder(folder); !made) return made;
  const nlohmann::ordered_json json = {{"authority", node.authority},
                                       {"pin", pin_text(node.pin)},
                                       {"bundle", bundle_document(node.bundle)}};
  std::string identity = key_and_chain_pem(node.svid.key.get(), node.svid.chain);
  if (identity.empty()) return Failure("out of memory");
  auto written = replace_kept_file(folder, kNodeFile, identity);
  OPENSSL_cleanse(identity.data(), identity.size());
  if (written) written = replace_kept_file(folder, kAuthorityFile, json.dump(2) + "\n");
  return written;
}

PkeyPtr make_node_key() {
  return PkeyPtr(EVP_PKEY_Q_keygen(library_context(), nullptr, "EC", "P-256"));
}

tl::expected<PkeyPtr, std::string> enrolling_key(const std::string &folder,
                                                 std::string_view token_digest,
                                                 std::span<const uid_t> owners) {
  std::string digits;
  for (const char byte : token_digest)
    digits += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  const std::string head = fmt::format("For the token whose secret has the SHA-256 {}\n", digits);
  // One that others could read is no secret any more, and one of another token is that one's.
  if (auto kept = read_kept_file(in(folder, kEnrollingFile), owners); kept) {
    const bool usable =
        kept->bytes.starts_with(head) && key_permission_complaint(kept->status).empty();
    auto key = usable ? private_key_from_pem(kept->bytes) : tl::unexpected(std::string());
    OPENSSL_cleanse(kept->bytes.data(), kept->bytes.size());
    if (key) return key;
  }
  PkeyPtr key = make_node_key();
  std::string pem = key ? key_and_chain_pem(key.get(), {}) : std::string();
  if (pem.empty()) return Failure("OpenSSL could not make a key");
  auto written = make_kept_folder(folder);
  pem.insert(0, head);
  if (written) written = replace_kept_file(folder, kEnrollingFile, pem);
  OPENSSL_cleanse(pem.data(), pem.size());
  if (!written) return Failure(written.error());
  return key;
}

void forget_enrolling_key(const std::string &folder) {
  ::unlink(in(folder, kEnrollingFile).c_str());
}

std::string load_granted(const std::string &folder, std::span<const uid_t> owners) {
  auto content = read_kept_file(in(folder, kGrantedFile), owners);
  return content ? std::move(content->bytes) : std::string();
}

tl::expected<void, std::string> save_granted(const std::string &folder, std::string_view bytes) {
  return replace_kept_file(folder, kGrantedFile, bytes);
}

}  // namespace inlay::identity::agent
