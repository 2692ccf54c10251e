#include "policy/reason.h"

#include <array>

namespace inlay::policy {
namespace {

struct Text {
  std::string_view name;
  std::string_view sentence;
};

constexpr std::array<Text, kReasonCount> kTexts = {{
#define INLAY_REASON_TEXT(id, name, sentence) {name, sentence},
    INLAY_REASONS(INLAY_REASON_TEXT)
#undef INLAY_REASON_TEXT
}};

}  // namespace

std::string_view name(Reason reason) noexcept {
  auto index = static_cast<std::size_t>(reason);
  return index < kReasonCount ? kTexts[index].name : "unknown";
}

std::string_view sentence(Reason reason) noexcept {
  auto index = static_cast<std::size_t>(reason);
  return index < kReasonCount ? kTexts[index].sentence : "unknown reason";
}

}  // namespace inlay::policy
