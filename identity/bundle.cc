#include "identity/bundle.h"

#include <fmt/format.h>

#include <climits>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "identity/certificate.h"

namespace inlay::identity {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxDepth = 16;

tl::unexpected<BundleError> error(std::string message) {
  return tl::unexpected(BundleError{std::move(message)});
}

// The first pass over JSON: whether it is well-formed at all, with each name once in its object.
// A parser that keeps the first of two equal names and one that keeps the last would read two
// different bundles from one file.
class Checker : public nlohmann::json_sax<Json> {
 public:
  const std::string &complaint() const { return complaint_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t &) override { return true; }
  bool string(string_t &) override { return true; }
  bool binary(binary_t &) override { return true; }
  bool start_object(std::size_t) override { return enter(); }
  bool end_object() override { return leave(); }
  bool start_array(std::size_t) override { return enter(); }
  bool end_array() override { return leave(); }
  bool key(string_t &name) override {
    if (names_.back().insert(name).second) return true;
    complaint_ = fmt::format("the JSON name \"{}\" occurs twice in one object", printable(name));
    return false;
  }
  bool parse_error(std::size_t position, const std::string &,
                   const nlohmann::detail::exception &) override {
    complaint_ = fmt::format("it is not valid JSON, at byte {}", position);
    return false;
  }

 private:
  bool enter() {
    if (names_.size() >= kMaxDepth) {
      complaint_ = "its JSON is nested too deeply";
      return false;
    }
    names_.emplace_back();
    return true;
  }
  bool leave() {
    names_.pop_back();
    return true;
  }

  std::vector<std::set<std::string>> names_;
  std::string complaint_;
};

const Json *member(const Json &object, const char *name) {
  const auto found = object.find(name);
  return found == object.end() ? nullptr : &*found;
}

std::string_view text_member(const Json &object, const char *name) {
  const Json *const value = member(object, name);
  const auto *const text = value != nullptr ? value->get_ptr<const std::string *>() : nullptr;
  return text != nullptr ? std::string_view(*text) : std::string_view();
}

// RFC 7517 §4.7: base64, not base64url. Strict: canonical length, padding at the end only.
std::optional<std::vector<unsigned char>> from_base64(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0 || text.size() > INT_MAX) return std::nullopt;
  std::size_t padding = 0;
  while (padding < 2 && text[text.size() - 1 - padding] == '=') ++padding;
  // EVP_DecodeBlock would skip white space at both ends and take '=' for a zero anywhere.
  for (const char c : text.substr(0, text.size() - padding)) {
    const bool good = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                      c == '+' || c == '/';
    if (!good) return std::nullopt;
  }
  std::vector<unsigned char> bytes(text.size() / 4 * 3);
  const int length =
      EVP_DecodeBlock(bytes.data(), reinterpret_cast<const unsigned char *>(text.data()),
                      static_cast<int>(text.size()));
  if (length < 0) return std::nullopt;
  bytes.resize(static_cast<std::size_t>(length) - padding);
  return bytes;
}

// X509-SVID §6.1 and Trust Domain and Bundle §4.2. Null for an element to be ignored.
tl::expected<X509Ptr, BundleError> parse_key(const Json &key, std::size_t index) {
  if (!key.is_object()) return error(fmt::format("keys[{}] is not an object", index));
  const std::string_view type = text_member(key, "kty");
  if (type != "EC" && type != "RSA") return X509Ptr();
  // jwt-svid authorities sign tokens, not certificates.
  if (text_member(key, "use") != "x509-svid") return X509Ptr();

  const Json *const chain = member(key, "x5c");
  if (chain == nullptr || !chain->is_array() || chain->size() != 1) {
    return error(fmt::format("keys[{}] is an x509-svid key without exactly one x5c value", index));
  }
  const auto *const text = chain->front().get_ptr<const std::string *>();
  const auto der = text != nullptr ? from_base64(*text) : std::nullopt;
  X509Ptr certificate = der ? certificate_from_der(*der) : nullptr;
  if (!certificate) {
    return error(fmt::format("keys[{}] has an x5c value that is no base64 DER certificate", index));
  }
  return certificate;
}

tl::expected<Bundle, BundleError> parse_json(std::string_view text) {
  Checker checker;
  if (!Json::sax_parse(text, &checker)) return error(checker.complaint());
  const Json document = Json::parse(text, nullptr, false);
  if (!document.is_object()) return error("its JSON is not an object");

  const Json *const keys = member(document, "keys");
  if (keys == nullptr && member(document, "trust_domains") != nullptr) {
    return error("it is a map of bundles (\"trust_domains\"); give each bundle its own file");
  }
  if (keys == nullptr) return error("\"keys\" is missing");
  if (!keys->is_array()) return error("\"keys\" is not an array");

  Bundle bundle;
  if (const Json *const sequence = member(document, "spiffe_sequence"); sequence != nullptr) {
    // A double would round above 2^53; the parser makes one of any integer beyond 64 bits.
    const auto *const number = sequence->get_ptr<const Json::number_unsigned_t *>();
    if (number == nullptr) {
      return error("\"spiffe_sequence\" is not an integer from 0 to 18446744073709551615");
    }
    bundle.sequence = *number;
  }
  for (std::size_t index = 0; index < keys->size(); ++index) {
    auto authority = parse_key((*keys)[index], index);
    if (!authority) return tl::unexpected(authority.error());
    if (*authority) bundle.authorities.push_back(std::move(*authority));
  }
  return bundle;
}

tl::expected<Bundle, BundleError> parse_pem(std::string_view text) {
  auto certificates = certificates_from_pem(text);
  if (!certificates) return error(certificates.error());
  if (certificates->empty()) return error("it holds no certificate, neither PEM nor SPIFFE JSON");
  return Bundle{std::move(*certificates), 0};
}

// No PEM file starts with a brace but for text before its first block, which then is no JSON.
bool looks_like_json(std::string_view text) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  return first != text.npos && (text[first] == '{' || text[first] == '[');
}

}  // namespace

tl::expected<Bundle, BundleError> parse_bundle(std::string_view text) {
  const ErrorMark mark;
  try {
    return looks_like_json(text) ? parse_json(text) : parse_pem(text);
  } catch (const std::bad_alloc &) {
    return tl::unexpected(BundleError{"out of memory"});
  }
}

}  // namespace inlay::identity
