#include "identity/ca/database.h"

namespace inlay::identity::ca {

std::int64_t Row::number(std::size_t column) const {
  const auto *const value = std::get_if<std::int64_t>(&cells_.at(column));
  return value != nullptr ? *value : 0;
}

std::string Row::text(std::size_t column) const {
  const auto *const value = std::get_if<std::string>(&cells_.at(column));
  return value != nullptr ? *value : std::string();
}

std::string Row::bytes(std::size_t column) const {
  const auto *const value = std::get_if<Blob>(&cells_.at(column));
  return value != nullptr ? value->bytes : std::string();
}

bool Row::null(std::size_t column) const {
  return std::holds_alternative<std::monostate>(cells_.at(column));
}

}  // namespace inlay::identity::ca
