// Addresses and networks as policy sees them: parsed, never text. IPv4 and IPv4-mapped IPv6 are
// one address; the scope of a link-local address is not part of it (T56).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

struct sockaddr;

namespace inlay::policy {

struct Address {
  std::array<std::uint8_t, 16> bytes{};  // network order; IPv4 as ::ffff:a.b.c.d
  bool operator==(const Address &) const = default;

  bool is_v4() const noexcept;
  bool is_unspecified() const noexcept;  // 0.0.0.0 or ::
  // "10.0.0.1", "::1"; no brackets.
  std::string text() const;
  // A literal IPv4 or IPv6 address; no port, no zone.
  static std::optional<Address> parse(std::string_view text);
};

struct Endpoint {
  Address address;
  std::uint16_t port = 0;  // host order
  bool operator==(const Endpoint &) const = default;
  // "10.0.0.1:80", "[::1]:80"
  std::string text() const;
  // Empty for families other than AF_INET and AF_INET6 and for lengths too short. Safe in hooks:
  // no allocation, no syscall.
  static std::optional<Endpoint> from_sockaddr(const sockaddr *address,
                                               std::size_t length) noexcept;
};

struct Network {
  Address address;
  std::uint8_t prefix = 128;  // bits of the 128-bit form: 10.0.0.0/8 has 104
  // An IPv4 address is in no IPv6 network: "::/0" is every IPv6 address, "0.0.0.0/0" every IPv4
  // one.
  bool contains(const Address &candidate) const noexcept;
  // "10.0.0.0/8"; a single address without its prefix.
  std::string text() const;
  bool operator==(const Network &) const = default;
  // "10.0.0.0/8", "::1/128", or a plain address; host bits set in a network are an error.
  static std::optional<Network> parse(std::string_view text);
};

}  // namespace inlay::policy
