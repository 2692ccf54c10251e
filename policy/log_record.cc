#include "policy/log_record.h"

namespace inlay::policy {

std::string_view name(Event event) noexcept {
  switch (event) {
    case Event::refused:
      return "refused";
    case Event::cut:
      return "cut";
    case Event::accepted:
      return "accepted";
    case Event::closed:
      return "closed";
    case Event::plaintext:
      return "plaintext";
    case Event::notice:
      return "notice";
  }
  return "unknown";
}

std::string_view name(Direction direction) noexcept {
  switch (direction) {
    case Direction::none:
      return "none";
    case Direction::inbound:
      return "inbound";
    case Direction::outbound:
      return "outbound";
  }
  return "unknown";
}

}  // namespace inlay::policy
