#include "policy/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstring>

namespace inlay::policy {
namespace {

constexpr std::array<std::uint8_t, 12> kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

Address mapped(const void *four_bytes) noexcept {
  Address out;
  std::copy(kMapped.begin(), kMapped.end(), out.bytes.begin());
  std::memcpy(out.bytes.data() + 12, four_bytes, 4);
  return out;
}

bool same_bits(const Address &a, const Address &b, unsigned bits) noexcept {
  unsigned whole = bits / 8;
  if (!std::equal(a.bytes.begin(), a.bytes.begin() + whole, b.bytes.begin())) return false;
  if (bits % 8 == 0) return true;
  auto mask = static_cast<std::uint8_t>(0xff << (8 - bits % 8));
  return ((a.bytes[whole] ^ b.bytes[whole]) & mask) == 0;
}

}  // namespace

bool Address::is_v4() const noexcept {
  return std::equal(kMapped.begin(), kMapped.end(), bytes.begin());
}

bool Address::is_unspecified() const noexcept {
  std::size_t from = is_v4() ? 12 : 0;
  return std::all_of(bytes.begin() + static_cast<std::ptrdiff_t>(from), bytes.end(),
                     [](std::uint8_t byte) { return byte == 0; });
}

std::string Address::text() const {
  char buffer[INET6_ADDRSTRLEN];
  const void *from = is_v4() ? bytes.data() + 12 : bytes.data();
  const char *out = inet_ntop(is_v4() ? AF_INET : AF_INET6, from, buffer, sizeof buffer);
  return out != nullptr ? out : "";
}

std::optional<Address> Address::parse(std::string_view text) {
  char buffer[INET6_ADDRSTRLEN];
  if (text.size() >= sizeof buffer || text.find('\0') != std::string_view::npos) {
    return std::nullopt;
  }
  *std::copy(text.begin(), text.end(), buffer) = '\0';
  std::uint8_t four[4];
  if (inet_pton(AF_INET, buffer, four) == 1) return mapped(four);
  Address out;
  if (inet_pton(AF_INET6, buffer, out.bytes.data()) == 1) return out;
  return std::nullopt;
}

std::string Endpoint::text() const {
  std::string host = address.is_v4() ? address.text() : "[" + address.text() + "]";
  return host + ":" + std::to_string(port);
}

std::optional<Endpoint> Endpoint::from_sockaddr(const sockaddr *address,
                                                std::size_t length) noexcept {
  // Copied out as bytes: the program's pointer may be of any alignment.
  const void *bytes = address;
  if (bytes == nullptr || length < sizeof(sa_family_t)) return std::nullopt;
  sa_family_t family;
  std::memcpy(&family, static_cast<const char *>(bytes) + offsetof(sockaddr, sa_family),
              sizeof family);
  Endpoint out;
  if (family == AF_INET && length >= sizeof(sockaddr_in)) {
    sockaddr_in in;
    std::memcpy(&in, bytes, sizeof in);
    out.address = mapped(&in.sin_addr);
    out.port = ntohs(in.sin_port);
    return out;
  }
  // The kernel takes a sockaddr_in6 without its scope too (SIN6_LEN_RFC2133, 24 bytes).
  constexpr std::size_t kWithoutScope = offsetof(sockaddr_in6, sin6_scope_id);
  if (family == AF_INET6 && length >= kWithoutScope) {
    sockaddr_in6 in6{};
    std::memcpy(&in6, bytes, kWithoutScope);
    std::memcpy(out.address.bytes.data(), &in6.sin6_addr, 16);
    out.port = ntohs(in6.sin6_port);
    return out;
  }
  return std::nullopt;
}

bool Network::contains(const Address &candidate) const noexcept {
  bool v4 = prefix >= 96 && address.is_v4();
  return v4 == candidate.is_v4() && same_bits(address, candidate, prefix);
}

std::string Network::text() const {
  if (prefix == 128) return address.text();
  unsigned shown = prefix >= 96 && address.is_v4() ? prefix - 96u : prefix;
  return address.text() + "/" + std::to_string(shown);
}

std::optional<Network> Network::parse(std::string_view text) {
  std::size_t slash = text.find('/');
  std::string_view host = text.substr(0, slash);
  auto address = Address::parse(host);
  if (!address) return std::nullopt;
  Network out{.address = *address, .prefix = 128};
  if (slash == std::string_view::npos) return out;

  // ::ffff:10.0.0.0/104 counts 128 bits, 10.0.0.0/8 counts 32: what was written decides.
  unsigned skip = host.find(':') == std::string_view::npos ? 96 : 0;
  std::string_view digits = text.substr(slash + 1);
  unsigned bits = 0;
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), bits);
  if (error != std::errc() || end != digits.data() + digits.size() || bits > 128 - skip ||
      (digits.size() > 1 && digits.front() == '0')) {
    return std::nullopt;
  }
  out.prefix = static_cast<std::uint8_t>(bits + skip);
  Address base;
  for (unsigned i = 0; i < 16; ++i) {
    int kept = std::clamp(static_cast<int>(out.prefix) - static_cast<int>(i * 8), 0, 8);
    base.bytes[i] = static_cast<std::uint8_t>(address->bytes[i] & (0xff00u >> kept));
  }
  if (base != *address) return std::nullopt;
  return out;
}

}  // namespace inlay::policy
