#include "policy/toml_reader.h"

namespace inlay::policy {
namespace {

// Quoted from the file, a line end or an escape sequence would go to terminals and logs.
std::string one_line(std::string_view text) {
  std::string shown;
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      shown += fmt::format("\\x{:02x}", byte);
    } else {
      shown += c;
    }
  }
  return shown;
}

}  // namespace

void parser_lost() { throw ParserLost(); }

bool TomlReader::parse_text(std::string_view text, toml::table *out) {
  try {
    // Without the file's name, for which the parser needs memory where it may not throw.
    toml::parse_result parsed = toml::parse(text);
    if (!parsed) {
      const toml::parse_error &error = parsed.error();
      return fail(error.source(), fmt::format("not TOML: {}", error.description()));
    }
    *out = std::move(parsed).table();
    return true;
  } catch (const ParserLost &) {
    error_ = {.file = std::string(file_), .message = "not TOML"};
    return false;
  }
}

bool TomlReader::fail(const toml::source_region &where, std::string_view message) {
  error_ = {.file = std::string(file_),
            .line = where.begin.line,
            .column = where.begin.column,
            .message = one_line(message)};
  return false;
}

bool TomlReader::known_keys(const toml::table &table, std::string_view where,
                            std::initializer_list<std::string_view> known) {
  // Of several unknown keys the first in the file is reported; the table is sorted by name.
  const toml::key *unknown = nullptr;
  for (auto &&[key, value] : table) {
    if (std::find(known.begin(), known.end(), key.str()) != known.end()) continue;
    if (unknown == nullptr || key.source().begin < unknown->source().begin) unknown = &key;
  }
  if (unknown == nullptr) return true;
  std::string_view key = unknown->str();
  if (std::find(later_.begin(), later_.end(), key) != later_.end()) {
    return fail(
        unknown->source(),
        fmt::format("\"{}\" in {} is not in this version of inlay: leave it out", key, where));
  }
  return fail(unknown->source(), fmt::format("unknown key \"{}\" in {}: known here are {}", key,
                                             where, fmt::join(known, ", ")));
}

bool TomlReader::need(const toml::table &table, std::string_view where, std::string_view key,
                      std::string_view example) {
  if (table.contains(key)) return true;
  return fail(table.source(), fmt::format("{} has no {}: write {}", where, key, example));
}

bool TomlReader::take(const toml::table &table, std::string_view key, const toml::table **out) {
  const toml::node *node = table.get(key);
  if (node == nullptr) return true;
  *out = node->as_table();
  return *out != nullptr || fail(node->source(), fmt::format("{} must be a table", key));
}

bool TomlReader::take(const toml::table &table, std::string_view key, std::string *out) {
  const toml::node *node = table.get(key);
  if (node == nullptr) return true;
  const auto *value = node->as_string();
  if (value == nullptr) {
    return fail(node->source(), fmt::format("{} must be a string in quotes", key));
  }
  *out = value->get();
  return true;
}

bool TomlReader::take(const toml::table &table, std::string_view key, bool *out) {
  const toml::node *node = table.get(key);
  if (node == nullptr) return true;
  const auto *value = node->as_boolean();
  if (value == nullptr) return fail(node->source(), fmt::format("{} must be true or false", key));
  *out = value->get();
  return true;
}

bool TomlReader::take(const toml::table &table, std::string_view key, std::uint32_t most,
                      std::uint32_t *out) {
  const toml::node *node = table.get(key);
  if (node == nullptr) return true;
  const auto *number = node->as_integer();
  if (number == nullptr || number->get() < 1 || number->get() > most) {
    return fail(node->source(), fmt::format("{} must be a number from 1 to {}", key, most));
  }
  *out = static_cast<std::uint32_t>(number->get());
  return true;
}

bool TomlReader::take_path(const toml::table &table, std::string_view key, std::string *out) {
  return take(table, key, out, [this](std::string_view text) { return parse_path(text, base_); });
}

}  // namespace inlay::policy
