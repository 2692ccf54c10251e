#include "identity/agent_snapshot.h"

#include <cstring>

namespace inlay::identity {
namespace {

// "INLYSNP1", then the fields in order: numbers as std::uint32_t, strings with their length before
// them, lists with their count before them.
constexpr std::string_view kMagic = "INLYSNP1";
constexpr std::uint32_t kMaxEntries = 65536;  // of a list: more is no list of certificates

class Writer {
 public:
  Writer() : block_(kMagic) {}
  void number(std::size_t value) {
    const auto narrow = static_cast<std::uint32_t>(value);
    block_.append(reinterpret_cast<const char *>(&narrow), sizeof narrow);
  }
  void text(std::string_view value) {
    number(value.size());
    block_ += value;
  }
  void list(const std::vector<std::string> &values) {
    number(values.size());
    for (const std::string &value : values) text(value);
  }
  std::string take() { return std::move(block_); }

 private:
  std::string block_;
};

// After the first thing that is not there, everything reads as empty and good() is false.
class Reader {
 public:
  explicit Reader(std::span<const char> block) : rest_(block.data(), block.size()) {
    good_ = rest_.starts_with(kMagic);
    if (good_) rest_.remove_prefix(kMagic.size());
  }
  std::uint32_t number() {
    std::uint32_t value = 0;
    std::string_view bytes = take(sizeof value);
    if (bytes.size() == sizeof value) std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }
  std::string text() { return std::string(take(number())); }
  std::uint32_t count() {
    std::uint32_t count = number();
    if (count > kMaxEntries) good_ = false;
    return good_ ? count : 0;
  }
  std::vector<std::string> list() {
    std::vector<std::string> values;
    for (std::uint32_t left = count(); left > 0 && good_; --left) values.push_back(text());
    return values;
  }
  bool good() const { return good_; }
  bool at_end() const { return rest_.empty(); }

 private:
  std::string_view take(std::size_t length) {
    if (!good_ || rest_.size() < length) {
      good_ = false;
      return {};
    }
    std::string_view bytes = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return bytes;
  }

  std::string_view rest_;
  bool good_ = false;
};

}  // namespace

std::string serialize(const AgentSnapshot &snapshot) {
  Writer out;
  out.text(snapshot.policy);
  out.list(snapshot.svid);
  out.text(snapshot.why_no_svid);
  out.number(snapshot.bundles.size());
  for (const auto &[trust_domain, authorities] : snapshot.bundles) {
    out.text(trust_domain);
    out.list(authorities);
  }
  out.list(snapshot.crls);
  return out.take();
}

tl::expected<AgentSnapshot, std::string> parse_agent_snapshot(std::span<const char> block) try {
  if (block.size() > kMaxAgentSnapshot) return tl::unexpected(std::string("a snapshot too large"));
  Reader in(block);
  if (!in.good()) return tl::unexpected(std::string("no snapshot of this version of inlay"));
  AgentSnapshot snapshot;
  snapshot.policy = in.text();
  snapshot.svid = in.list();
  snapshot.why_no_svid = in.text();
  for (std::uint32_t left = in.count(); left > 0 && in.good(); --left) {
    std::string trust_domain = in.text();
    if (!snapshot.bundles.try_emplace(std::move(trust_domain), in.list()).second) {
      return tl::unexpected(std::string("a snapshot with two bundles of one trust domain"));
    }
  }
  snapshot.crls = in.list();
  if (!in.good() || !in.at_end()) return tl::unexpected(std::string("a torn snapshot"));
  return snapshot;
} catch (...) {
  return tl::unexpected(std::string("out of memory"));
}

}  // namespace inlay::identity
