#include "policy/host_name.h"

#include <algorithm>

namespace inlay::policy {
namespace {

// Not tolower(): that asks the host program's locale.
char lower(char c) noexcept { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

std::string_view without_final_dot(std::string_view name) noexcept {
  if (name.ends_with('.')) name.remove_suffix(1);
  return name;
}

bool looks_like_number(std::string_view label) noexcept {
  if (std::all_of(label.begin(), label.end(), is_digit)) return true;
  return label.starts_with("0x") &&
         label.find_first_not_of("0123456789abcdef", 2) == std::string_view::npos;
}

}  // namespace

std::optional<std::string> normal_host_name(std::string_view name) {
  name = without_final_dot(name);
  if (name.empty() || name.size() > 253) return std::nullopt;  // RFC 1035 §2.3.4
  std::string out(name);
  std::transform(out.begin(), out.end(), out.begin(), lower);
  if (out.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-_.") != std::string::npos ||
      out.starts_with('.') || out.ends_with('.') || out.find("..") != std::string::npos) {
    return std::nullopt;
  }
  std::size_t dot = out.rfind('.');
  if (looks_like_number(std::string_view(out).substr(dot == std::string::npos ? 0 : dot + 1))) {
    return std::nullopt;
  }
  return out;
}

bool same_host_name(std::string_view a, std::string_view b) noexcept {
  a = without_final_dot(a);
  b = without_final_dot(b);
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

}  // namespace inlay::policy
