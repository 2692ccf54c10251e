#include "identity/strict_json.h"

#include <fmt/format.h>

#include <set>
#include <vector>

#include "identity/certificate.h"

namespace inlay::identity {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxDepth = 16;

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

}  // namespace

tl::expected<Json, std::string> parse_strict_json(std::string_view text) {
  Checker checker;
  if (!Json::sax_parse(text, &checker)) return tl::unexpected(checker.complaint());
  return Json::parse(text, nullptr, false);
}

const Json *json_member(const Json &object, const char *name) {
  const auto found = object.find(name);
  return found == object.end() ? nullptr : &*found;
}

std::string_view json_text(const Json &object, const char *name) {
  const Json *const value = json_member(object, name);
  const auto *const text = value != nullptr ? value->get_ptr<const std::string *>() : nullptr;
  return text != nullptr ? std::string_view(*text) : std::string_view();
}

}  // namespace inlay::identity
