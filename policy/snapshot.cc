#include "policy/snapshot.h"

#include <array>
#include <cstring>
#include <exception>

namespace inlay::policy {
namespace {

// The block: header, then the policy's fields in the order of the struct. Numbers are
// little-endian and of fixed width, strings and lists have a 32-bit count before them. Written and
// read by the same functions: Fields<Writer> and Fields<ByteReader> can not disagree.
constexpr std::array<char, 8> kMagic = {'I', 'N', 'L', 'A', 'Y', 'P', 'O', 'L'};
constexpr std::uint32_t kVersion = 2;
constexpr std::size_t kVersionAt = 8;
constexpr std::size_t kChecksumAt = 12;
constexpr std::size_t kHeader = 20;

// FNV-1a over everything but itself. Against torn and damaged blocks, not against an adversary:
// the block is handed on in a sealed memfd. Every step is a bijection of the state, so that no
// change of a single byte goes unseen.
std::uint64_t checksum(std::span<const char> block) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (std::size_t i = 0; i < block.size(); ++i) {
    if (i == kChecksumAt) i = kHeader;
    if (i == block.size()) break;
    hash = (hash ^ static_cast<unsigned char>(block[i])) * 0x100000001b3;
  }
  return hash;
}

void put_number(std::string *out, std::uint64_t value, unsigned bytes) {
  for (unsigned i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i) & 0xff));
}

std::uint64_t get_number(std::span<const char> from) noexcept {
  std::uint64_t value = 0;
  for (std::size_t i = from.size(); i-- > 0;) {
    value = value << 8 | static_cast<unsigned char>(from[i]);
  }
  return value;
}

class Writer {
 public:
  template <typename T>
  bool number(const T &value) {
    put_number(&out, static_cast<std::uint64_t>(value), sizeof value);
    return true;
  }
  template <typename Enum>
  bool choice(const Enum &value, Enum) {
    return number(static_cast<std::uint8_t>(value));
  }
  bool flag(const bool &value) { return number(static_cast<std::uint8_t>(value)); }
  bool string(const std::string &value) {
    number(static_cast<std::uint32_t>(value.size()));
    out += value;
    return true;
  }
  bool address(const Address &value) {
    out.append(reinterpret_cast<const char *>(value.bytes.data()), value.bytes.size());
    return true;
  }
  bool pattern(const IdPattern &value) { return string(value.text()); }
  template <typename List, typename Each>
  bool list(const List &values, Each each) {
    number(static_cast<std::uint32_t>(values.size()));
    for (const auto &value : values) each(value);
    return true;
  }

  std::string out;
};

// Every function is false when the block ends too early or holds a value that cannot be.
class ByteReader {
 public:
  explicit ByteReader(std::span<const char> block) : rest_(block) {}

  template <typename T>
  bool number(T &value) {
    if (rest_.size() < sizeof value) return false;
    value = static_cast<T>(get_number(rest_.first(sizeof value)));
    rest_ = rest_.subspan(sizeof value);
    return true;
  }
  template <typename Enum>
  bool choice(Enum &value, Enum last) {
    std::uint8_t raw = 0;
    if (!number(raw) || raw > static_cast<std::uint8_t>(last)) return false;
    value = static_cast<Enum>(raw);
    return true;
  }
  bool flag(bool &value) {
    std::uint8_t raw = 0;
    if (!number(raw) || raw > 1) return false;
    value = raw == 1;
    return true;
  }
  bool string(std::string &value) {
    std::uint32_t size = 0;
    if (!number(size) || size > rest_.size()) return false;
    value.assign(rest_.data(), size);
    rest_ = rest_.subspan(size);
    return true;
  }
  bool address(Address &value) {
    if (rest_.size() < value.bytes.size()) return false;
    std::memcpy(value.bytes.data(), rest_.data(), value.bytes.size());
    rest_ = rest_.subspan(value.bytes.size());
    return true;
  }
  bool pattern(IdPattern &value) {
    std::string text;
    if (!string(text)) return false;
    auto parsed = IdPattern::parse(text);
    if (!parsed) return false;
    value = *std::move(parsed);
    return true;
  }
  // Grows one by one: a count is only believed as far as the block goes.
  template <typename T, typename Each>
  bool list(std::vector<T> &values, Each each) {
    std::uint32_t count = 0;
    if (!number(count)) return false;
    for (std::uint32_t i = 0; i < count; ++i) {
      if (!each(values.emplace_back())) return false;
    }
    return true;
  }
  bool at_end() const noexcept { return rest_.empty(); }

 private:
  std::span<const char> rest_;
};

template <typename Io>
class Fields {
 public:
  explicit Fields(Io &io) : io_(io) {}

  template <typename PolicyType>
  bool policy(PolicyType &policy) {
    return io_.string(policy.trust_domain) && identity(policy.identity) &&
           defaults(policy.defaults) && io_.string(policy.log_file) &&
           io_.list(policy.inbound, [this](auto &rule) { return this->inbound(rule); }) &&
           io_.list(policy.outbound, [this](auto &rule) { return this->outbound(rule); }) &&
           io_.list(
               policy.resolved,
               [this](auto &pair) { return io_.string(pair.first) && io_.address(pair.second); }) &&
           io_.flag(policy.strict) && source(policy.source);
  }

 private:
  template <typename Files>
  bool identity(Files &files) {
    return io_.string(files.agent) && io_.string(files.svid) && io_.string(files.key) &&
           io_.string(files.bundle) && bundles(files.further_bundles) && io_.string(files.crl) &&
           io_.flag(files.accept_stale_crl);
  }
  bool bundles(const std::map<std::string, std::string> &bundles) {
    return io_.list(bundles, [this](const auto &pair) {
      return io_.string(pair.first) && io_.string(pair.second);
    });
  }
  bool bundles(std::map<std::string, std::string> &bundles) {
    std::vector<std::pair<std::string, std::string>> pairs;
    bool good = io_.list(
        pairs, [this](auto &pair) { return io_.string(pair.first) && io_.string(pair.second); });
    for (auto &pair : pairs) good = bundles.insert(std::move(pair)).second && good;
    return good;
  }
  template <typename DefaultsType>
  bool defaults(DefaultsType &defaults) {
    return io_.choice(defaults.inbound, Mode::deny) && io_.choice(defaults.outbound, Mode::deny) &&
           io_.number(defaults.handshake_timeout_ms) &&
           io_.choice(defaults.bare_fin, BareFin::eof) && io_.flag(defaults.keep_distrusted);
  }
  template <typename Rule>
  bool common(Rule &rule) {
    return io_.string(rule.name) &&
           io_.list(rule.ports,
                    [this](auto &range) {
                      return io_.number(range.first) && io_.number(range.last) &&
                             range.first <= range.last;
                    }) &&
           io_.choice(rule.mode, Mode::deny) && io_.choice(rule.bare_fin, BareFin::eof);
  }
  template <typename List>
  bool networks(List &list) {
    return io_.list(list, [this](auto &network) {
      return io_.address(network.address) && io_.number(network.prefix) && network.prefix <= 128;
    });
  }
  template <typename List>
  bool patterns(List &list) {
    return io_.list(list, [this](auto &pattern) { return io_.pattern(pattern); });
  }
  template <typename Rule>
  bool inbound(Rule &rule) {
    return common(rule) && networks(rule.addresses) && patterns(rule.allow) && patterns(rule.deny);
  }
  template <typename Rule>
  bool outbound(Rule &rule) {
    return common(rule) && networks(rule.networks) &&
           io_.list(rule.names, [this](auto &name) { return io_.string(name); }) &&
           patterns(rule.expect) && io_.string(rule.caller.module) &&
           io_.string(rule.caller.frame) && io_.string(rule.caller.executable);
  }
  template <typename SourceType>
  bool source(SourceType &source) {
    return io_.string(source.file) && io_.number(source.device) && io_.number(source.inode) &&
           io_.number(source.size) && io_.number(source.modified_ns) &&
           io_.number(source.changed_ns);
  }

  Io &io_;
};

}  // namespace

std::string_view sentence(SnapshotError error) noexcept {
  switch (error) {
    case SnapshotError::too_short:
      return "the policy snapshot is truncated";
    case SnapshotError::wrong_magic:
      return "this is no policy snapshot";
    case SnapshotError::wrong_version:
      return "the policy snapshot is of another version of inlay";
    case SnapshotError::checksum:
      return "the policy snapshot is damaged";
    case SnapshotError::malformed:
      return "the policy snapshot holds values that cannot be";
    case SnapshotError::out_of_memory:
      return "out of memory for the policy snapshot";
  }
  return "unknown error of the policy snapshot";
}

std::string serialize(const Policy &policy) {
  Writer writer;
  writer.out.assign(kMagic.data(), kMagic.size());
  writer.number(kVersion);
  writer.number(std::uint64_t{0});
  Fields<Writer>(writer).policy(policy);
  std::string sum;
  put_number(&sum, checksum(writer.out), 8);
  writer.out.replace(kChecksumAt, sum.size(), sum);
  return std::move(writer.out);
}

tl::expected<Policy, SnapshotError> deserialize(std::span<const char> block) {
  if (block.size() < kHeader) return tl::unexpected(SnapshotError::too_short);
  if (std::memcmp(block.data(), kMagic.data(), kMagic.size()) != 0) {
    return tl::unexpected(SnapshotError::wrong_magic);
  }
  if (get_number(block.subspan(kVersionAt, 4)) != kVersion) {
    return tl::unexpected(SnapshotError::wrong_version);
  }
  if (get_number(block.subspan(kChecksumAt, 8)) != checksum(block)) {
    return tl::unexpected(SnapshotError::checksum);
  }
  try {
    ByteReader reader(block.subspan(kHeader));
    Policy policy;
    if (!Fields<ByteReader>(reader).policy(policy) || !reader.at_end()) {
      return tl::unexpected(SnapshotError::malformed);
    }
    return policy;
  } catch (const std::exception &) {
    return tl::unexpected(SnapshotError::out_of_memory);
  }
}

}  // namespace inlay::policy
